{{/* What the operator may do; test/api/charts.test.ts runs it with just this. No wildcards. */}}

{{/* Objects without a namespace. */}}
{{- define "operator.clusterRules" -}}
- apiGroups: [""]
  resources: [nodes, persistentvolumes, namespaces]
  verbs: [get, list, watch]
- apiGroups: [storage.k8s.io]
  resources: [storageclasses]
  verbs: [get, list, watch]
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get, list, watch]
# Whose token is it: pods ask for their certificates with one.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
# Certificates for people who look, and for those who may have mail itself (docs/decisions/0014-kubectl-plugin.md).
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
- apiGroups: [certificates.k8s.io]
  resources: [certificatesigningrequests]
  verbs: [get, list, watch]
- apiGroups: [certificates.k8s.io]
  resources: [certificatesigningrequests/approval, certificatesigningrequests/status]
  verbs: [update, patch]
- apiGroups: [certificates.k8s.io]
  resources: [signers]
  resourceNames: [mailcluster.dev/viewer, mailcluster.dev/exporter]
  verbs: [approve, sign]
{{- end -}}

{{/* In every namespace with MailClusters. */}}
{{- define "operator.namespaceRules" -}}
- apiGroups: [mailcluster.dev]
  resources: [mailclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [mailcluster.dev]
  resources: [mailboxdatabases]
  verbs: [get, list, watch]
# A failover of a mailbox database makes one.
- apiGroups: [mailcluster.dev]
  resources: [resubmitrequests]
  verbs: [get, list, watch, create, patch]
# What people order about queues and messages; deleted when it is long over.
- apiGroups: [mailcluster.dev]
  resources: [transportorders]
  verbs: [get, list, watch, delete]
- apiGroups: [mailcluster.dev]
  resources: [mailclusters/status, mailboxdatabases/status, resubmitrequests/status, transportorders/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [configmaps, secrets, services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [statefulsets, deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
# Ordered restarts; the generation as an annotation.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# Growing a volume; deleting that of a member which is proved empty.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# Where somebody installed these kinds.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, watch, create, patch, delete]
{{- end -}}

{{/* Leader election, in its own namespace. */}}
{{- define "operator.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "operator.fullname" . }}]
  verbs: [get, update, patch]
{{- end -}}
