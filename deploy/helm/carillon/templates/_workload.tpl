{{/* The objects of one service; each takes root, name and service. A new service needs no new template. */}}

{{- define "carillon.meta" -}}
metadata:
  name: {{ include "carillon.component" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "carillon.labels" . | nindent 4 }}
{{- end }}

{{- define "carillon.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
{{ include "carillon.meta" . }}
  {{- with .service.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{- define "carillon.deployment" -}}
{{- $spec := include "carillon.podSpec" . | fromYaml -}}
{{- $replicas := include "carillon.replicas" . | fromYaml -}}
apiVersion: apps/v1
kind: Deployment
{{ include "carillon.meta" . }}
  annotations:
    carillon/replicas: {{ $replicas.note }}
    {{- with .service.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- with $replicas.number }}
  replicas: {{ . }}
  {{- end }}
  revisionHistoryLimit: 5
  minReadySeconds: {{ include "carillon.settled" .service }}
  progressDeadlineSeconds: {{ max 600 (mul 2 (add (include "carillon.grace" .service | int) (include "carillon.settled" .service | int))) }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: {{ .service.rollout.maxSurge }}
      maxUnavailable: {{ .service.rollout.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "carillon.selector" . | nindent 6 }}
  template:
    metadata:
      # No version in here: a chart that changes nothing else rolls nobody.
      labels:
        {{- include "carillon.selector" . | nindent 8 }}
        {{- with .service.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .name }}
        # Nothing that matters is in there: autoscalers of nodes may empty one.
        cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes: tmp
        {{- with .service.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- mergeOverwrite $spec (deepCopy .service.podSpec) | toYaml | nindent 6 }}
{{- end }}

{{- define "carillon.publicService" -}}
apiVersion: v1
kind: Service
{{ include "carillon.meta" . }}
  {{- with .service.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .service.service.type }}
  # Any gateway resumes any client.
  sessionAffinity: None
  ports:
    - name: public
      port: {{ .service.service.port }}
      targetPort: public
      appProtocol: {{ .service.service.appProtocol }}
  selector:
    {{- include "carillon.selector" . | nindent 4 }}
{{- end }}

{{/* Only for a ServiceMonitor, which needs one. It is never routed. */}}
{{- define "carillon.internalService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "carillon.component" . }}-internal
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "carillon.labels" . | nindent 4 }}
    carillon/port: internal
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  ports:
    - name: internal
      port: 9090
      targetPort: internal
      appProtocol: http
  selector:
    {{- include "carillon.selector" . | nindent 4 }}
{{- end }}

{{- define "carillon.pdb" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
{{ include "carillon.meta" . }}
spec:
  maxUnavailable: {{ .service.pdb.maxUnavailable }}
  # A pod that is not ready serves nobody: it must not keep a node from being emptied.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "carillon.selector" . | nindent 6 }}
{{- end }}

{{/* Up at once, down one at a time: each that goes moves its clients to the others. */}}
{{- define "carillon.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: {{ .scaleUp.stabilizationSeconds }}
  policies:
    - type: Pods
      value: {{ .scaleUp.podsPerMinute }}
      periodSeconds: 60
scaleDown:
  stabilizationWindowSeconds: {{ .scaleDown.stabilizationSeconds }}
  policies:
    - type: Pods
      value: 1
      periodSeconds: {{ .scaleDown.secondsPerPod }}
{{- end }}

{{- define "carillon.hpa" -}}
{{- $scaling := .service.autoscaling -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
{{ include "carillon.meta" . }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "carillon.component" . }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
    {{- if $scaling.metric }}
    - type: Pods
      pods:
        metric:
          name: {{ $scaling.metric }}
        target:
          type: AverageValue
          averageValue: {{ $scaling.perPod | int64 | quote }}
    {{- end }}
    {{- if $scaling.cpuPercent }}
    - type: ContainerResource
      containerResource:
        name: cpu
        container: {{ .name }}
        target:
          type: Utilization
          averageUtilization: {{ $scaling.cpuPercent }}
    {{- end }}
  behavior:
    {{- include "carillon.behavior" $scaling | nindent 4 }}
{{- end }}

{{- define "carillon.scaledObject" -}}
{{- $scaling := .service.autoscaling -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
{{ include "carillon.meta" . }}
spec:
  scaleTargetRef:
    name: {{ include "carillon.component" . }}
  minReplicaCount: {{ $scaling.minReplicas }}
  maxReplicaCount: {{ $scaling.maxReplicas }}
  pollingInterval: 15
  {{- if and $scaling.metric (not $scaling.cpuPercent) }}
  # Blind, it keeps what there is. Not beside a trigger on CPU, which the fallback would overrule.
  fallback:
    failureThreshold: 3
    replicas: {{ $scaling.minReplicas }}
    behavior: currentReplicasIfHigher
  {{- end }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        {{- include "carillon.behavior" $scaling | nindent 8 }}
  triggers:
    {{- if $scaling.metric }}
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ $scaling.prometheus | quote }}
        query: {{ $scaling.query | replace "$namespace" .root.Release.Namespace | quote }}
        threshold: {{ $scaling.perPod | int64 | quote }}
        # A metric that is gone is an error, not a zero that scales everything in.
        ignoreNullValues: "false"
    {{- end }}
    {{- if $scaling.cpuPercent }}
    - type: cpu
      metricType: Utilization
      metadata:
        value: {{ $scaling.cpuPercent | int64 | quote }}
        containerName: {{ .name }}
    {{- end }}
{{- end }}

{{/* Everything of one service, as a stream of documents. */}}
{{- define "carillon.workload" -}}
---
{{ include "carillon.serviceAccount" . }}
---
{{ include "carillon.deployment" . }}
{{- if .service.public }}
---
{{ include "carillon.publicService" . }}
{{- end }}
{{- if eq .root.Values.monitoring.monitor "ServiceMonitor" }}
---
{{ include "carillon.internalService" . }}
{{- end }}
{{- if and .service.pdb.enabled (gt (include "carillon.least" .service | int) 1) }}
---
{{ include "carillon.pdb" . }}
{{- end }}
{{- if eq .service.autoscaling.kind "hpa" }}
---
{{ include "carillon.hpa" . }}
{{- else if eq .service.autoscaling.kind "keda" }}
---
{{ include "carillon.scaledObject" . }}
{{- end }}
{{- if .root.Values.networkPolicy.enabled }}
---
{{ include "carillon.networkPolicy" . }}
{{- end }}
{{- end }}
