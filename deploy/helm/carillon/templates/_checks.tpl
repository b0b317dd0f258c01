{{/*
What the schema cannot say: values that fit their types and not each other. Each message names the values, says
why, and what to do.
*/}}

{{- define "carillon.check" -}}
{{- include "carillon.checkNats" . -}}
{{- include "carillon.checkAuth" . -}}
{{- include "carillon.checkEdge" . -}}
{{- range $name, $block := .Values.services -}}
{{- $service := include "carillon.service" (dict "root" $ "block" $block) | fromYaml -}}
{{- if $service.enabled -}}
{{- $at := dict "root" $ "name" $name "service" $service "path" (printf "services.%s" $name) -}}
{{- include "carillon.checkTermination" $at -}}
{{- include "carillon.checkRollout" $at -}}
{{- include "carillon.checkScaling" $at -}}
{{- include "carillon.checkMemory" $at -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "carillon.checkNats" -}}
{{- $nats := .Values.nats -}}
{{- if gt (int $nats.streamReplicas) (int $nats.servers) -}}
{{- fail (printf "nats.streamReplicas is %d, and nats.servers is %d: a stream cannot have more copies than there are servers. Set nats.streamReplicas to 1, or use a cluster." (int $nats.streamReplicas) (int $nats.servers)) -}}
{{- end -}}
{{- if and (ne $nats.auth.kind "none") (not $nats.auth.existingSecret) (not $nats.auth.secretPrefix) -}}
{{- fail (printf "nats.auth.kind is %s, and nats.auth.secretPrefix is empty: say how the Secrets with the identities are called." $nats.auth.kind) -}}
{{- end -}}
{{- if and $nats.tls.existingSecret (not (contains "tls://" $nats.url)) -}}
{{- fail (printf "nats.tls.existingSecret is set, and nats.url is %s: write tls:// for an encrypted connection." $nats.url) -}}
{{- end -}}
{{- end }}

{{- define "carillon.checkAuth" -}}
{{- $auth := .Values.auth -}}
{{- if eq $auth.algorithm "HS256" -}}
{{- if not $auth.existingSecret -}}
{{- fail "auth.algorithm is HS256, and auth.existingSecret is empty: name the Secret with the signing secret. kubectl create secret generic carillon-auth --from-literal=secret=$(openssl rand -hex 32)" -}}
{{- end -}}
{{- else if and $auth.jwks.url $auth.jwks.existingConfigMap -}}
{{- fail "auth.jwks.url and auth.jwks.existingConfigMap are both set: the key set comes from one of them." -}}
{{- else if not (or $auth.jwks.url $auth.jwks.existingConfigMap) -}}
{{- fail (printf "auth.algorithm is %s, and there is no key set: set auth.jwks.url or auth.jwks.existingConfigMap." $auth.algorithm) -}}
{{- end -}}
{{- end }}

{{- define "carillon.checkEdge" -}}
{{- $gateway := include "carillon.service" (dict "root" . "block" .Values.services.gateway) | fromYaml -}}
{{- if and (or .Values.ingress.enabled .Values.httpRoute.enabled) (not $gateway.enabled) -}}
{{- fail "ingress or httpRoute is enabled, and services.gateway.enabled is false: there is nothing to lead to." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled is true, and ingress.hosts is empty: name the hosts that clients use." -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled is true, and httpRoute.parentRefs is empty: name the Gateway it belongs to." -}}
{{- end -}}
{{- $settings := $gateway.settings -}}
{{- $silence := max (int ($settings.heartbeatSeconds | default 15)) (add (int ($settings.pingInterval | default 25)) (int ($settings.pingTimeout | default 10))) -}}
{{- if and .Values.ingress.enabled (le (int .Values.ingress.timeoutSeconds) (int $silence)) -}}
{{- fail (printf "ingress.timeoutSeconds is %d, and a healthy connection may be silent for %d seconds (heartbeatSeconds; pingInterval and pingTimeout): the proxy would cut it. Raise the one or lower the others." (int .Values.ingress.timeoutSeconds) (int $silence)) -}}
{{- end -}}
{{- end }}

{{- define "carillon.checkTermination" -}}
{{- $ends := .service.termination -}}
{{- $least := add $ends.preStopSeconds $ends.drainSeconds 15 | int -}}
{{- $grace := include "carillon.grace" .service | int -}}
{{- if lt $grace $least -}}
{{- fail (printf "%s.termination.graceSeconds is %d, and preStopSeconds %d + drainSeconds %d + 15 to close make %d: the drain would be cut. Set graceSeconds to %d or more, or to 0 to have it computed." .path $grace (int $ends.preStopSeconds) (int $ends.drainSeconds) $least $least) -}}
{{- end -}}
{{- if gt $grace 600 -}}
{{- fail (printf "%s needs %d seconds to end, and cluster autoscalers wait 600 at most: lower termination.drainSeconds." .path $grace) -}}
{{- end -}}
{{- end }}

{{- define "carillon.checkRollout" -}}
{{- $rollout := .service.rollout -}}
{{- if and (eq (toString $rollout.maxSurge) "0") (eq (toString $rollout.maxUnavailable) "0") -}}
{{- fail (printf "%s.rollout.maxSurge and maxUnavailable are both 0: nothing could ever be replaced. Set maxSurge to 1." .path) -}}
{{- end -}}
{{- $least := include "carillon.least" .service | int -}}
{{- if and .service.pdb.enabled (gt $least 1) (ge (int .service.pdb.maxUnavailable) $least) -}}
{{- fail (printf "%s.pdb.maxUnavailable is %d, and there may be only %d replicas: all of them could be evicted at once. Set it to %d or less." .path (int .service.pdb.maxUnavailable) $least (sub $least 1)) -}}
{{- end -}}
{{- $most := include "carillon.most" .service | int -}}
{{- if and (gt $most 1) (lt (int .root.Values.nats.servers) 3) (not .root.Values.nats.allowSingle) -}}
{{- fail (printf "%s may have %d replicas, and nats.servers is %d: they would all fail with one NATS server. Point nats.url at a cluster of 3 and set nats.servers to 3, or accept it with nats.allowSingle=true." .path $most (int .root.Values.nats.servers)) -}}
{{- end -}}
{{- end }}

{{- define "carillon.checkScaling" -}}
{{- $scaling := .service.autoscaling -}}
{{- if ne $scaling.kind "none" -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas is %d and maxReplicas %d: the first must not be larger." .path (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- $measured := and $scaling.metric (gt (int $scaling.perPod) 0) -}}
{{- if and $scaling.metric (not $measured) -}}
{{- fail (printf "%s.autoscaling.metric is %s, and perPod is 0: say how much of it a pod should have." .path $scaling.metric) -}}
{{- end -}}
{{- if not (or $measured (gt (int $scaling.cpuPercent) 0)) -}}
{{- fail (printf "%s.autoscaling has nothing to go by: set metric and perPod, or cpuPercent." .path) -}}
{{- end -}}
{{- if and $measured (eq $scaling.kind "keda") (not $scaling.query) -}}
{{- fail (printf "%s.autoscaling.kind is keda, and query is empty: say how to ask Prometheus for %s." .path $scaling.metric) -}}
{{- end -}}
{{- if and $measured (eq $scaling.kind "keda") (not $scaling.prometheus) -}}
{{- fail (printf "%s.autoscaling.kind is keda, and prometheus is empty: name Prometheus's address." .path) -}}
{{- end -}}
{{- with .service.settings.maxConnections -}}
{{- if and $measured (eq $scaling.metric "carillon_gateway_connections") (gt (mul (int $scaling.perPod) 10) (mul (int .) 8)) -}}
{{- fail (printf "%s.autoscaling.perPod is %d, more than 80 %% of settings.maxConnections %d: pods would refuse clients before others are there. Lower it to %d." $.path (int $scaling.perPod) (int .) (div (mul (int .) 8) 10)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A connection that waits costs up to 6 KiB, one that is being served its outbox besides: 12 KiB on average. */}}
{{- define "carillon.checkMemory" -}}
{{- $limit := include "carillon.mebibytes" .service.resources.limits.memory | int -}}
{{- $connections := int (.service.settings.maxConnections | default 0) -}}
{{- $needed := add 128 (div (mul $connections 12) 1024) | int -}}
{{- if and $connections $limit (lt $limit $needed) -}}
{{- fail (printf "%s.resources.limits.memory is %s, and settings.maxConnections %d take about %d MiB: the pod would be killed before it is full. Raise the limit or lower maxConnections." .path (toString .service.resources.limits.memory) $connections $needed) -}}
{{- end -}}
{{- end }}

{{/* A quantity of memory in MiB; 0 where there is none, or it is written in a way we do not read. */}}
{{- define "carillon.mebibytes" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9]+" $text | default "0" | int64 -}}
{{- $unit := regexReplaceAll "^[0-9]+" $text "" -}}
{{- if eq $unit "Gi" -}}{{- mul $number 1024 -}}
{{- else if eq $unit "Mi" -}}{{- $number -}}
{{- else if eq $unit "Ki" -}}{{- div $number 1024 -}}
{{- else if eq $unit "G" -}}{{- div (mul $number 1000000) 1049 -}}
{{- else if eq $unit "M" -}}{{- div (mul $number 1000) 1049 -}}
{{- else -}}0{{- end -}}
{{- end }}
