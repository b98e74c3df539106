/** The replies table and the small parts around the conversation: formatting, counting connections, the moving deadline. */
import { describe, expect, it } from 'vitest';
import { clientNetwork } from '../../common/networks.ts';
import { ClientLimits } from '../../common/smtp/client-limits.ts';
import { ConnectionLedger } from '../../common/smtp/connection-ledger.ts';
import { Deadline } from '../../common/smtp/deadline.ts';
import { formatReply, REPLIES, reply } from '../../common/smtp/replies.ts';
import { ManualClock } from '../dialog/edge-rig.ts';

describe('replies', () => {
  it.each(Object.entries(REPLIES))('%s is well-formed', (_name, { code, enhanced, text }) => {
    expect(code).toBeGreaterThanOrEqual(200);
    expect(code).toBeLessThan(600);
    // RFC 2034 section 4: 2yz, 4yz and 5yz carry a code of their class; the greeting, HELO/EHLO and 3yz none.
    if (enhanced === '') expect([220, 250, 334, 354]).toContain(code);
    else expect(enhanced).toMatch(new RegExp(`^${String(code)[0]}\\.\\d{1,3}\\.\\d{1,3}$`));
    expect(text).toMatch(/^[\x20-\x7e]+$/);
  });

  it('fill in parameters, also hostile ones', () => {
    expect(reply('tooManyRecipients', { limit: 3 }).text).toBe('Too many recipients, the limit is 3 per message');
    expect(reply('ok')).toBe(REPLIES.ok);
    const hostile = reply('unknownParameter', { parameter: 'A\r\n250 ok\x00ö$&' });
    expect(formatReply({ ...hostile, text: hostile.text.replaceAll('\n', ' ') })).toBe(
      '555 5.5.4 Parameter A? 250 ok??$& not recognized\r\n',
    );
  });

  it('lines are at most 512 octets, and every line of a multi-line reply has its codes', () => {
    const wire = formatReply({ code: 550, enhanced: '5.7.1', text: `first\n${'x'.repeat(600)}\nlast` });
    const lines = wire.split('\r\n');
    expect(lines[0]).toBe('550-5.7.1 first');
    expect(lines[1]).toMatch(/^550-5\.7\.1 x+$/);
    expect(`${lines[1]}\r\n`.length).toBe(512);
    expect(lines[2]).toBe('550 5.7.1 last');
    expect(lines[3]).toBe('');
  });
});

describe('client networks', () => {
  it.each([
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:DB8:1:2::9', '2001:db8:1:2::/64'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['2001:0db8:0001::', '2001:db8:1:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['64:ff9b::192.0.2.1', '64:ff9b:0:0::/64'],
    ['', ''],
  ])('%s counts as %s', (address, network) => expect(clientNetwork(address)).toBe(network));
});

describe('connection ledger', () => {
  const limits = { maxConnections: 3, maxConnectionsPerClient: 2, maxConnectionRatePerClient: 0 };

  it('refuses over each limit and admits again after a release', () => {
    const ledger = new ConnectionLedger(new ClientLimits(new ManualClock(), null));
    const first = ledger.admit('2001:db8::1', limits);
    expect(ledger.admit('2001:db8::2', limits).kind).toBe('admitted');
    expect(ledger.admit('2001:db8::3', limits)).toEqual({ kind: 'refused', limit: 'maxConnectionsPerClient' });
    expect(ledger.admit('192.0.2.1', limits).kind).toBe('admitted');
    expect(ledger.admit('192.0.2.2', limits)).toEqual({ kind: 'refused', limit: 'maxConnections' });
    if (first.kind !== 'admitted') throw new Error('the first connection was refused');
    first.release();
    first.release();
    expect(ledger.total).toBe(2);
    expect(ledger.admit('2001:db8::3', limits).kind).toBe('admitted');
  });
});

describe('deadline', () => {
  it('fires once, at the last time it was set to, and not after cancel', () => {
    const clock = new ManualClock();
    const fired: number[] = [];
    const deadline = new Deadline(clock, () => fired.push(clock.monotonicMs()));
    deadline.set(100);
    deadline.set(300);
    clock.advance(299);
    expect(fired).toEqual([]);
    clock.advance(1);
    expect(fired).toEqual([300]);
    clock.advance(1_000);
    deadline.set(2_000);
    deadline.set(1_500);
    clock.advance(200);
    expect(fired).toEqual([300, 1_500]);
    deadline.set(3_000);
    deadline.set(Number.POSITIVE_INFINITY);
    clock.advance(5_000);
    deadline.set(8_000);
    deadline.cancel();
    clock.advance(5_000);
    expect(fired).toEqual([300, 1_500]);
  });
});
