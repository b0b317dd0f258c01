{{/* Names and labels. */}}

{{- define "carillon.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "carillon.fullname" -}}
{{- $name := include "carillon.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* The name of a component's objects; takes root and name. */}}
{{- define "carillon.component" -}}
{{- printf "%s-%s" (include "carillon.fullname" .root) .name -}}
{{- end }}

{{/* What selects the pods of a release. */}}
{{- define "carillon.releaseSelector" -}}
app.kubernetes.io/name: {{ include "carillon.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What selects the pods of a component; takes root and name. It must never change. */}}
{{- define "carillon.selector" -}}
{{ include "carillon.releaseSelector" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* Labels of an object; takes root and name. */}}
{{- define "carillon.labels" -}}
{{ include "carillon.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: carillon
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Image of a component; takes root and image, whose parts win over the chart's. */}}
{{- define "carillon.image" -}}
{{- $image := .image | default dict -}}
{{- $repository := $image.repository | default .root.Values.image.repository -}}
{{- $tag := $image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- $digest := $image.digest | default (ternary "" .root.Values.image.digest (not (empty (or $image.repository $image.tag)))) -}}
{{- if $digest -}}
{{- printf "%s@%s" $repository $digest -}}
{{- else -}}
{{- printf "%s:%s" $repository $tag -}}
{{- end -}}
{{- end }}

{{/* Seconds until SIGKILL; takes a service's values. */}}
{{- define "carillon.grace" -}}
{{- $ends := .termination -}}
{{- $ends.graceSeconds | default (add $ends.preStopSeconds $ends.drainSeconds 20) | int -}}
{{- end }}

{{/* Whether an autoscaler or somebody by hand says how many replicas there are; takes a service's values. */}}
{{- define "carillon.scaledElsewhere" -}}
{{- if or (ne .autoscaling.kind "none") (kindIs "invalid" .replicas) -}}yes{{- end -}}
{{- end }}

{{/* The fewest and the most replicas that a service may have; take its values. By hand there may be several. */}}
{{- define "carillon.least" -}}
{{- ternary (.replicas | default 2) .autoscaling.minReplicas (eq .autoscaling.kind "none") | int -}}
{{- end }}
{{- define "carillon.most" -}}
{{- ternary (.replicas | default 2) .autoscaling.maxReplicas (eq .autoscaling.kind "none") | int -}}
{{- end }}

{{/* Seconds that a new replica must be ready before the next one is touched; takes a service's values. Of a
public one: until the one before has moved its clients, so that one drains at a time. */}}
{{- define "carillon.settled" -}}
{{- $drained := add .termination.preStopSeconds .termination.drainSeconds 5 | int -}}
{{- .rollout.minReadySeconds | default (ternary $drained 10 .public) | int -}}
{{- end }}

{{/* A service's values: the defaults, and its own block over them; `replicasSaid`, whether the block says how many.
Takes root and block; gives YAML. */}}
{{- define "carillon.service" -}}
{{- $block := .block | default dict -}}
{{- $values := mergeOverwrite (deepCopy .root.Values.defaults) (deepCopy $block) -}}
{{- if and (hasKey $block "replicas") (kindIs "invalid" $block.replicas) -}}
{{- $values = set $values "replicas" nil -}}
{{- end -}}
{{- set $values "replicasSaid" (hasKey $block "replicas") | toYaml -}}
{{- end }}
