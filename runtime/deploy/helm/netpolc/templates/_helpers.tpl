{{- define "netpolc.labels" -}}
app.kubernetes.io/name: netpolc
{{- end }}

{{- define "netpolc.image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "netpolc.config" -}}
RUST_LOG: {{ .Values.log | quote }}
METRICS_ADDRESS: "{{ .Values.metrics.address }}:{{ .Values.metrics.port }}"
CNI_FAIL: {{ .Values.cni.fail | quote }}
CNI_TIMEOUT_MS: {{ .Values.cni.timeoutMilliseconds | int | quote }}
CNI_EXEMPT_NAMESPACES: {{ join "," .Values.cni.exemptNamespaces | quote }}
{{- end }}

{{- define "netpolc.cniArgs" -}}
- --bin-dir=/host/opt/cni/bin
- --conf-dir=/host/etc/cni/net.d
{{- with .Values.cni.file }}
- --file={{ . }}
{{- end }}
{{- if not .Values.remove }}
- --fail=$(CNI_FAIL)
- --timeout-ms=$(CNI_TIMEOUT_MS)
- --exempt-namespace=$(CNI_EXEMPT_NAMESPACES)
{{- end }}
{{- end }}

{{- define "netpolc.cniSecurity" -}}
runAsUser: 0
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  # The folders may belong to another user.
  add: [DAC_OVERRIDE]
{{- end }}

{{- define "netpolc.cniMounts" -}}
- name: cni-bin
  mountPath: /host/opt/cni/bin
- name: cni-conf
  mountPath: /host/etc/cni/net.d
{{- end }}

{{- define "netpolc.agentSecurity" -}}
runAsUser: 0
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add:
    {{- toYaml .Values.capabilities | nindent 4 }}
{{- end }}

{{- /* Where kubelet asks for health: every address includes the node's loopback. */}}
{{- define "netpolc.probed" -}}
{{- if has .Values.metrics.address (list "0.0.0.0" "[::]") }}127.0.0.1{{ else }}{{ .Values.metrics.address }}{{ end }}
{{- end }}
