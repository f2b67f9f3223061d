{{- define "gapwatch.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "gapwatch.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gapwatch.labels" -}}
{{ include "gapwatch.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "gapwatch.endpoint" -}}
port: metrics
interval: {{ .Values.scrapeInterval }}
scrapeTimeout: {{ .Values.scrapeInterval }}
relabelings:
  - targetLabel: job
    replacement: gapwatch
{{- end }}

{{/* The commands that there is a deployment of each for. */}}
{{- define "gapwatch.roles" -}}
{{ ternary (list "intake" "ledger" "page") (list "run") .Values.fleet.enabled | toYaml }}
{{- end }}

{{/* What all containers have. */}}
{{- define "gapwatch.image" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "gapwatch.env" -}}
- name: GAPWATCH_REDIS
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.secretName }}, key: {{ .Values.redis.secretKey }}}
{{- if .Values.fleet.enabled }}
- {name: GAPWATCH_KAFKA_BROKERS, value: {{ .Values.fleet.brokers | quote }}}
{{- if .Values.fleet.passwordSecretName }}
- name: GAPWATCH_KAFKA_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .Values.fleet.passwordSecretName }}, key: {{ .Values.fleet.passwordSecretKey }}}
{{- end }}
{{- end }}
{{- end }}
