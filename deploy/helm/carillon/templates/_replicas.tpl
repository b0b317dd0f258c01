{{/*
How many replicas there are, where an autoscaler or somebody by hand says so: the number of this moment stays.

A field that is left out behind one that was there becomes 1 at once, so the number of the cluster is written
where the field was written before, and left out otherwise: a rollback must not bring an old number back.
*/}}

{{/* The field `replicas` of a Deployment and its note, `carillon/replicas`; takes root, name and service. The note:
written, a number of the values; kept, that of the cluster; open, none. As YAML, `number` is empty for none. */}}
{{- define "carillon.replicas" -}}
{{- $live := lookup "apps/v1" "Deployment" .root.Release.Namespace (include "carillon.component" .) -}}
{{- $noted := dig "metadata" "annotations" "carillon/replicas" "" $live -}}
{{- $at := dict "root" .root "live" $live "noted" $noted -}}
{{- if not (or (include "carillon.scaledElsewhere" .service) (and (not .service.replicasSaid) (has $noted (list "kept" "open")))) -}}
{{- dict "note" "written" "number" (toString .service.replicas) | toYaml -}}
{{- else if and $live (include "carillon.replicasOurs" $at) -}}
{{- dict "note" "kept" "number" (toString $live.spec.replicas) | toYaml -}}
{{- else -}}
{{- dict "note" "open" "number" "" | toYaml -}}
{{- end -}}
{{- end }}

{{/* Whether leaving the field out would change the live number; takes root, live and noted. */}}
{{- define "carillon.replicasOurs" -}}
{{- $applied := false -}}{{- $own := false -}}{{- $others := false -}}
{{- range .live.metadata.managedFields -}}
{{- $spec := dig "fieldsV1" "f:spec" dict . -}}
{{- if and (eq .operation "Apply") (hasKey $spec "f:selector") -}}
{{- $applied = true -}}
{{- $own = hasKey $spec "f:replicas" -}}
{{- else if hasKey $spec "f:replicas" -}}
{{- $others = true -}}
{{- end -}}
{{- end -}}
{{- if and $applied (not (hasPrefix "v3." .root.Capabilities.HelmVersion.Version)) -}}
{{/* Applied by the server: the field goes when nobody else has set it. */}}
{{- if and $own (not $others) -}}yes{{- end -}}
{{- else -}}
{{/* Applied by Helm: the field goes when the last manifest had it. Older charts did not note that. */}}
{{- $scaler := false -}}
{{- range $prefix := list "" "keda-hpa-" -}}
{{- if lookup "autoscaling/v2" "HorizontalPodAutoscaler" $.root.Release.Namespace (print $prefix $.live.metadata.name) -}}
{{- $scaler = true -}}
{{- end -}}
{{- end -}}
{{- if or (has .noted (list "written" "kept")) (and (not .noted) (not $scaler)) -}}yes{{- end -}}
{{- end -}}
{{- end }}
