{{- define "netpolc.labels" -}}
app.kubernetes.io/name: netpolc
{{- end }}

{{- define "netpolc.image" -}}
image: {{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "netpolc.config" -}}
RUST_LOG: {{ .Values.log | quote }}
NETPOLC_LOG_FORMAT: {{ .Values.logFormat | quote }}
METRICS_ADDRESS: {{ printf "%s:%v" (include "netpolc.address" .) .Values.metrics.port | quote }}
CNI_FAIL: {{ .Values.cni.fail | quote }}
CNI_TIMEOUT_MS: {{ .Values.cni.timeoutMilliseconds | int | quote }}
CNI_EXEMPT_NAMESPACES: {{ join "," .Values.cni.exemptNamespaces | quote }}
{{- end }}

{{- /* The kinds beyond those that every cluster has. */}}
{{- define "netpolc.alsoWatch" -}}
{{- $kinds := list }}
{{- if .Values.policies.clusterNetworkPolicies }}{{ $kinds = append $kinds "cluster-network-policies" }}{{ end }}
{{- if .Values.policies.securityGroups }}{{ $kinds = append $kinds "security-groups" }}{{ end }}
{{- if .Values.policies.staged }}{{ $kinds = append $kinds "staged-policies" }}{{ end }}
{{- join "," $kinds | default "none" }}
{{- end }}

{{- define "netpolc.cniArgs" -}}
- --conf-dir=/host/etc/cni/net.d
{{- with .Values.cni.file }}
- --file={{ . }}
{{- end }}
{{- if not .Values.remove }}
- --fail=$(CNI_FAIL)
- --timeout-ms=$(CNI_TIMEOUT_MS)
- --exempt-namespace=$(CNI_EXEMPT_NAMESPACES)
- --pod=$(POD_NAMESPACE)/$(POD_NAME)
{{- end }}
{{- end }}

{{- /* By which the plugin sees whether a pod of the agent is on the node still. */}}
{{- define "netpolc.podEnv" -}}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}

{{- define "netpolc.cniSecurity" -}}
runAsUser: 0
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  # The folders may belong to another user.
  add: [DAC_OVERRIDE]
{{- end }}

{{- define "netpolc.agentSecurity" -}}
runAsUser: 0
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add:
    {{- toYaml .Values.capabilities | nindent 4 }}
{{- end }}

{{- /* An IPv6 address stands in brackets before a port. */}}
{{- define "netpolc.address" -}}
{{- $bare := .Values.metrics.address | trimPrefix "[" | trimSuffix "]" }}
{{- if contains ":" $bare }}[{{ $bare }}]{{ else }}{{ $bare }}{{ end }}
{{- end }}

{{- define "netpolc.hubbleAddress" -}}
{{- $bare := .Values.hubble.listen.address | trimPrefix "[" | trimSuffix "]" }}
{{- if contains ":" $bare }}[{{ $bare }}]{{ else }}{{ $bare }}{{ end }}:{{ .Values.hubble.listen.port }}
{{- end }}

{{- /* Where kubelet asks for health, without brackets: every address includes the node's loopback. */}}
{{- define "netpolc.probed" -}}
{{- $bare := .Values.metrics.address | trimPrefix "[" | trimSuffix "]" }}
{{- if has $bare (list "0.0.0.0" "::") }}127.0.0.1{{ else }}{{ $bare }}{{ end }}
{{- end }}
