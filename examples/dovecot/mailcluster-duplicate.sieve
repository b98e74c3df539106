# Delivers each message of MailCluster to each recipient once.
#
# MailCluster delivers again whenever it cannot know whether a delivery succeeded: after a lost reply, after a takeover, and when mail is
# resubmitted from Safety Net after a mailbox failover. Only the store knows what it has. The field X-MailCluster-Delivery names the
# message and stays the same over all of these. X-MailCluster-Content is the same when a client which lost our reply sends the same message
# again; a MailboxDatabase with `duplicateSuppression: {clientRetries: Show}` has no such field. MailCluster removes fields of these names
# from incoming mail, so nobody else can set them.
#
# Dovecot keeps the memory of it (~/.dovecot.lda-dupes) with the mailbox: a copy of the mailbox that is older than the message does not
# suppress it. Run this script before the users' own (sieve_before, see mailcluster.conf).
require ["duplicate", "envelope", "variables"];

if envelope :matches "to" "*" {
  set :lower "recipient" "${1}";
  if header :matches "X-MailCluster-Delivery" "*" {
    set "delivery" "${1}";
    # 30 days; at least Safety Net hold time + message expiration. Dovecot caps it by sieve_duplicate_max_period (7 days by default).
    if duplicate :handle "mailcluster" :uniqueid "${delivery} ${recipient}" :seconds 2592000 {
      discard;
      stop;
    }
  }
  if header :matches "X-MailCluster-Content" "*" {
    set "content" "${1}";
    # 5 days: a client gives up by then (RFC 5321 4.5.4.1).
    if duplicate :handle "mailcluster-content" :uniqueid "${content} ${recipient}" :seconds 432000 {
      discard;
      stop;
    }
  }
}
