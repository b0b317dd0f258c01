{{/* What every pod of ours has: nothing here needs root, a shell, a writable disk or the API of Kubernetes. */}}

{{- define "carillon.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "carillon.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Variables of a process that speaks to NATS; takes root and name, its identity. */}}
{{- define "carillon.natsEnv" -}}
- name: CARILLON_NATS_URL
  value: {{ .root.Values.nats.url | quote }}
{{- if ne .root.Values.nats.auth.kind "none" }}
- name: {{ ternary "CARILLON_NATS_NKEY_SEED_FILE" "CARILLON_NATS_CREDS_FILE" (eq .root.Values.nats.auth.kind "nkey") }}
  value: /etc/carillon/nats/identity
- name: CARILLON_NATS_INBOX_PREFIX
  value: _INBOX_{{ .name }}
{{- end }}
{{- if .root.Values.nats.tls.existingSecret }}
- name: CARILLON_NATS_CA_FILE
  value: /etc/carillon/nats-ca/ca.crt
{{- end }}
- name: CARILLON_LOG_LEVEL
  value: {{ .root.Values.log.level }}
- name: CARILLON_LOG_FORMAT
  value: {{ .root.Values.log.format }}
{{- end }}

{{/* Volumes of the same, and of everybody's /tmp. */}}
{{- define "carillon.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 16Mi
{{- if ne .root.Values.nats.auth.kind "none" }}
- name: nats-identity
  secret:
    secretName: {{ .root.Values.nats.auth.existingSecret | default (printf "%s-%s" .root.Values.nats.auth.secretPrefix .name) }}
    defaultMode: 0440
    items:
      - key: {{ .name }}.{{ ternary "nk" "creds" (eq .root.Values.nats.auth.kind "nkey") }}
        path: identity
{{- end }}
{{- if .root.Values.nats.tls.existingSecret }}
- name: nats-ca
  secret:
    secretName: {{ .root.Values.nats.tls.existingSecret }}
    defaultMode: 0440
    items:
      - key: {{ .root.Values.nats.tls.key }}
        path: ca.crt
{{- end }}
{{- end }}

{{- define "carillon.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if ne .root.Values.nats.auth.kind "none" }}
- name: nats-identity
  mountPath: /etc/carillon/nats
  readOnly: true
{{- end }}
{{- if .root.Values.nats.tls.existingSecret }}
- name: nats-ca
  mountPath: /etc/carillon/nats-ca
  readOnly: true
{{- end }}
{{- end }}

{{/* How clients' tokens are checked. */}}
{{- define "carillon.authEnv" -}}
- name: CARILLON_AUTH_ALGORITHM
  value: {{ .Values.auth.algorithm }}
{{- if eq .Values.auth.algorithm "HS256" }}
{{ include "carillon.authSecretEnv" . }}
{{- else if .Values.auth.jwks.url }}
- name: CARILLON_AUTH_JWKS
  value: {{ .Values.auth.jwks.url | quote }}
{{- else }}
- name: CARILLON_AUTH_JWKS
  value: /etc/carillon/jwks/jwks.json
{{- end }}
{{ include "carillon.authClaimsEnv" . }}
{{- end }}

{{- define "carillon.authSecretEnv" -}}
- name: CARILLON_AUTH_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .Values.auth.existingSecret }}
      key: {{ .Values.auth.secretKey }}
{{- end }}

{{- define "carillon.authClaimsEnv" -}}
- name: CARILLON_AUTH_ISSUER
  value: {{ .Values.auth.issuer | quote }}
- name: CARILLON_AUTH_AUDIENCE
  value: {{ .Values.auth.audience | quote }}
{{- end }}

{{/* Whether the key set is a file. */}}
{{- define "carillon.jwksFile" -}}
{{- if and (ne .Values.auth.algorithm "HS256") (not .Values.auth.jwks.url) -}}yes{{- end -}}
{{- end }}

{{/* A probe of the internal port; takes path and probe. */}}
{{- define "carillon.probe" -}}
httpGet:
  path: {{ .path }}
  port: internal
{{ toYaml .probe }}
{{- end }}

{{/* All variables of a service; takes root, name and service. */}}
{{- define "carillon.env" -}}
- name: CARILLON_HOST
  value: {{ .root.Values.host | quote }}
{{ include "carillon.natsEnv" . }}
- name: CARILLON_DRAIN_SECONDS
  value: {{ .service.termination.drainSeconds | quote }}
{{- if .service.public }}
- name: CARILLON_GATEWAY_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{ include "carillon.authEnv" .root }}
{{- end }}
{{- range $key, $value := .service.settings }}
- name: CARILLON_{{ snakecase $key | upper }}
  value: {{ include "carillon.text" $value | quote }}
{{- end }}
{{- range $key, $value := .service.env }}
- name: {{ $key }}
  value: {{ include "carillon.text" $value | quote }}
{{- end }}
{{- with .service.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A number without an exponent, a list with commas, anything else as it is. */}}
{{- define "carillon.text" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) -}}{{- printf "%.0f" . -}}{{- else -}}{{- . -}}{{- end -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end }}

{{/* The container of a service. */}}
{{- define "carillon.container" -}}
name: {{ .name }}
image: {{ include "carillon.image" (dict "root" .root "image" .service.image) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [services.{{ .name }}]
ports:
  {{- if .service.public }}
  - name: public
    containerPort: 8080
  {{- end }}
  - name: internal
    containerPort: 9090
env:
  {{- include "carillon.env" . | nindent 2 }}
{{- with .service.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .service.termination.preStopSeconds }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .service.termination.preStopSeconds }}
{{- end }}
startupProbe:
  {{- include "carillon.probe" (dict "path" "/livez" "probe" .service.probes.startup) | nindent 2 }}
livenessProbe:
  {{- include "carillon.probe" (dict "path" "/livez" "probe" .service.probes.liveness) | nindent 2 }}
readinessProbe:
  {{- include "carillon.probe" (dict "path" "/readyz" "probe" .service.probes.readiness) | nindent 2 }}
resources:
  {{- toYaml .service.resources | nindent 2 }}
securityContext:
  {{- include "carillon.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "carillon.volumeMounts" . | nindent 2 }}
  {{- if and .service.public (include "carillon.jwksFile" .root) }}
  - name: jwks
    mountPath: /etc/carillon/jwks
    readOnly: true
  {{- end }}
  {{- with .service.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Replicas apart from each other: a zone or a host may fail, and a rollout counts its own pods only. */}}
{{- define "carillon.spread" -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "carillon.selector" $ | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{/* The pod of a service: spec only. */}}
{{- define "carillon.podSpec" -}}
serviceAccountName: {{ include "carillon.component" . }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "carillon.grace" .service }}
securityContext:
  {{- include "carillon.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .service.initContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - {{- include "carillon.container" . | nindent 4 }}
  {{- with .service.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
  {{- include "carillon.volumes" . | nindent 2 }}
  {{- if and .service.public (include "carillon.jwksFile" .root) }}
  - name: jwks
    configMap:
      name: {{ .root.Values.auth.jwks.existingConfigMap }}
      items:
        - key: {{ .root.Values.auth.jwks.key }}
          path: jwks.json
  {{- end }}
  {{- with .service.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if .service.topologySpread.enabled }}
topologySpreadConstraints:
  {{- if .service.topologySpread.constraints }}
  {{- toYaml .service.topologySpread.constraints | nindent 2 }}
  {{- else }}
  {{- include "carillon.spread" . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with .service.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .service.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .service.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .service.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
