{{- define "penstock.labels" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "penstock.selector" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "penstock.account" -}}
{{- default .Release.Name .Values.serviceAccount.name }}
{{- end }}
{{- define "penstock.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- /* What the installer's containers have alike. */}}
{{- define "penstock.installer" -}}
image: {{ include "penstock.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - {name: PENSTOCK_CNI_BINARIES, value: /host/cni/bin}
  - {name: PENSTOCK_CNI_CONFLISTS, value: /host/cni/net.d}
securityContext:
  capabilities: {drop: [ALL], add: [DAC_OVERRIDE]}
  readOnlyRootFilesystem: true
volumeMounts:
  - {name: cni-binaries, mountPath: /host/cni/bin}
  - {name: cni-conflists, mountPath: /host/cni/net.d}
{{- end }}
