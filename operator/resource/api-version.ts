/** Group and version of our resources. */
export const API_VERSION = 'mailcluster.dev/v1alpha1';
