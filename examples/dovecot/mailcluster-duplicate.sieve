# Delivers each message of MailCluster to each recipient once.
#
# MailCluster delivers again whenever it cannot know whether a delivery succeeded: after a lost reply, after a takeover, and when mail is
# resubmitted from Safety Net after a mailbox failover. Only the store knows what it has. The field X-MailCluster-Delivery names the
# message and stays the same over all of these; MailCluster removes such fields from incoming mail, so nobody else can set it.
#
# Dovecot keeps the memory of it (~/.dovecot.lda-dupes) with the mailbox: a copy of the mailbox that is older than the message does not
# suppress it. Run this script before the users' own (sieve_before, see mailcluster.conf).
require ["duplicate", "envelope", "variables"];

if header :matches "X-MailCluster-Delivery" "*" {
  set "delivery" "${1}";
  if envelope :matches "to" "*" {
    set :lower "recipient" "${1}";
    # 30 days; at least Safety Net hold time + message expiration. Dovecot caps it by sieve_duplicate_max_period (7 days by default).
    if duplicate :handle "mailcluster" :uniqueid "${delivery} ${recipient}" :seconds 2592000 {
      discard;
      stop;
    }
  }
}
