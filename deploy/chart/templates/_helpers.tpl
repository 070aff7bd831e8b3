{{- define "hub.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "hub.serviceAccount" -}}
{{- default (include "hub.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "hub.tokenSecret" -}}
{{- default (printf "%s-api" (include "hub.name" .)) .Values.api.existingSecret -}}
{{- end -}}

{{- define "hub.selector" -}}
app.kubernetes.io/name: hinterland-hub
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hub.labels" -}}
{{ include "hub.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
