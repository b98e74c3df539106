/** The Debian programs that nodes run (containerd and what it needs). */
export const NODE_PACKAGES = [
  'containerd',
  'runc',
  'containernetworking-plugins',
  'nftables',
  'iptables',
  'conntrack',
  'ethtool',
  'busybox',
] as const;
