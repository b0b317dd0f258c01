{{/* Who may speak with whom. */}}

{{/* Peers as `to` or `from`; nothing where there are none, which is everybody. Takes key and peers. */}}
{{- define "carillon.peers" -}}
{{- with .peers }}
{{ $.key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where everybody of ours goes: names, and NATS. */}}
{{- define "carillon.egress" -}}
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
  {{- include "carillon.peers" (dict "key" "to" "peers" .Values.networkPolicy.dnsPeers) | nindent 2 }}
- ports:
    {{- range $url := splitList "," .Values.nats.url }}
    - { port: {{ regexFind ":[0-9]+$" (trim $url) | trimPrefix ":" | default "4222" }}, protocol: TCP }
    {{- end }}
  {{- include "carillon.peers" (dict "key" "to" "peers" .Values.networkPolicy.natsPeers) | nindent 2 }}
{{- end }}

{{/* The port of an http(s) address. */}}
{{- define "carillon.httpPort" -}}
{{- $host := (urlParse .).host -}}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https:" .)) -}}
{{- end }}

{{- define "carillon.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
{{ include "carillon.meta" . }}
spec:
  podSelector:
    matchLabels:
      {{- include "carillon.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- with .root.Values.networkPolicy.internalPeers }}
    - ports:
        - { port: internal, protocol: TCP }
      from:
        {{- toYaml . | nindent 8 }}
    {{- end }}
    {{- if .service.public }}
    - ports:
        - { port: public, protocol: TCP }
      {{- with .root.Values.networkPolicy.publicPeers }}
      from:
        {{- toYaml . | nindent 8 }}
        - podSelector:
            matchLabels:
              {{- include "carillon.selector" (dict "root" $.root "name" "test") | nindent 14 }}
      {{- end }}
    {{- end }}
    {{- with .service.networkPolicy.extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    {{- include "carillon.egress" .root | nindent 4 }}
    {{- if and .service.public .root.Values.auth.jwks.url (ne .root.Values.auth.algorithm "HS256") }}
    - ports:
        - { port: {{ include "carillon.httpPort" .root.Values.auth.jwks.url }}, protocol: TCP }
      {{- include "carillon.peers" (dict "key" "to" "peers" .root.Values.networkPolicy.jwksPeers) | nindent 6 }}
    {{- end }}
    {{- with .service.networkPolicy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
