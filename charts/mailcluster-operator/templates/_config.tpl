{{- define "operator.config" -}}
{{- $name := include "operator.fullname" . -}}
{{- $settings := dict
  "image" (default (include "operator.image" .) .Values.membersImage)
  "imagePullPolicy" .Values.image.pullPolicy
  "imagePullSecrets" .Values.image.pullSecrets
  "redisImage" .Values.redisImage
  "namespace" .Release.Namespace
  "podLabels" (include "operator.selector" . | fromYaml)
  "signerUrl" (printf "https://%s.%s.svc.%s:%d" $name .Release.Namespace .Values.clusterDomain (int .Values.signer.port))
  "signerPort" 8443
  "clusterDomain" .Values.clusterDomain -}}
{{- dict
  "identity" "$(POD_NAME)"
  "watchNamespace" .Values.watchNamespace
  "lease" (dict "namespace" .Release.Namespace "name" $name)
  "settings" $settings
  "signer" (dict "host" .Values.listenAddress "port" 8443 "certificateLifetimeMs" (mul (int .Values.certificateLifetimeHours) 3600000))
  "metrics" (dict "host" .Values.listenAddress "port" 9090)
  "concurrency" (int .Values.concurrency)
  "logLevel" .Values.log.level
  | toPrettyJson -}}
{{- end -}}
