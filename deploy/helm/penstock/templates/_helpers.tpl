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
{{- if contains "@" .Values.image.repository -}}
{{ .Values.image.repository }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}
{{- /* An address as it stands before a port. */}}
{{- define "penstock.metrics" -}}
{{- $address := .Values.metrics.address | trimAll "[]" -}}
{{- if contains ":" $address }}[{{ $address }}]{{ else }}{{ $address }}{{ end }}:{{ .Values.metrics.port }}
{{- end }}
{{- /* What is asked for, and in any case no nodes that are none of one's own. */}}
{{- define "penstock.affinity" -}}
{{- $never := list (dict "key" "eks.amazonaws.com/compute-type" "operator" "NotIn" "values" (list "fargate")) (dict "key" "type" "operator" "NotIn" "values" (list "virtual-kubelet")) }}
{{- $affinity := deepCopy .Values.affinity }}
{{- $node := default (dict) (get $affinity "nodeAffinity") }}
{{- $required := default (dict) (get $node "requiredDuringSchedulingIgnoredDuringExecution") }}
{{- $terms := list }}
{{- range default (list (dict)) (get $required "nodeSelectorTerms") }}
{{- $terms = append $terms (set . "matchExpressions" (concat (default (list) (get . "matchExpressions")) $never)) }}
{{- end }}
{{- $node = set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- toYaml (set $affinity "nodeAffinity" $node) }}
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
