{{- define "rhocache.name" -}}
{{- if contains "rhocache" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-rhocache" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "rhocache.labels" -}}
app.kubernetes.io/name: rhocache
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Pods are chosen by these, which never change. */ -}}
{{- define "rhocache.selector" -}}
app.kubernetes.io/name: rhocache
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rhocache.image" -}}
{{ .root.Values.image.registry }}/rhocache-{{ .room }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}{{ .suffix }}
{{- end }}

{{- define "rhocache.pod" -}}
serviceAccountName: {{ include "rhocache.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "rhocache.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- /* What reaches the storage. */ -}}
{{- define "rhocache.storage-environment" -}}
{{- range $name, $value := .Values.storage.environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "rhocache.storage-secret" -}}
{{- with .Values.storage.secret }}
envFrom:
  - secretRef: { name: {{ . }} }
{{- end }}
{{- end }}

{{- /* The one container of a Ray pod, which KubeRay gives its command. At SIGTERM its node is drained,
until a little before the pod is ended. */ -}}
{{- define "rhocache.ray-container" -}}
{{- $root := .root -}}
name: ray
image: {{ include "rhocache.image" (dict "root" $root "room" "ray" "suffix" (.suffix | default "")) }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext: {{- include "rhocache.container-security" $root | nindent 2 }}
{{- if or .grace $root.Values.storage.environment }}
env:
  {{- with .grace }}
  - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
    value: {{ max 1 (sub . 5) | quote }}
  {{- end }}
  {{- include "rhocache.storage-environment" $root | nindent 2 }}
{{- end }}
{{- with include "rhocache.storage-secret" $root }}
{{ . }}
{{- end }}
resources: {{- toYaml .resources | nindent 2 }}
volumeMounts:
  - { name: tmp, mountPath: /tmp }
  - { name: data, mountPath: /data }
  - { name: shm, mountPath: /dev/shm }
  {{- if $root.Values.references.claim }}
  - { name: references, mountPath: /references }
  {{- end }}
{{- end }}

{{- define "rhocache.ray-volumes" -}}
- name: tmp
  emptyDir: {}
- name: data
  emptyDir: {}
- name: shm
  emptyDir: { medium: Memory, sizeLimit: {{ .Values.ray.sharedMemory }} }
{{- with .Values.references.claim }}
- name: references
  persistentVolumeClaim: { claimName: {{ . }} }
{{- end }}
{{- end }}
