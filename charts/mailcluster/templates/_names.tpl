{{- define "mailcluster.name" -}}
{{- $name := default .Release.Name .Values.name -}}
{{- if gt (len $name) 40 -}}
{{- fail (printf "the name %q has %d characters, at most 40 are possible because names of pods are made from it: set name, or choose a shorter name of the release" $name (len $name)) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "mailcluster.labels" -}}
app.kubernetes.io/name: mailcluster
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: mailcluster
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}
