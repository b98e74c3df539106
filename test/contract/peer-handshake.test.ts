/** HELLO, WELCOME, REFUSED: identity, versions and their compatibility, who may refuse whom. */
import { describe, expect, test } from 'vitest';
import { negotiateVersion } from '../../common/peer/session.ts';
import { helloOf } from '../unit/peer-samples.ts';
import { HELLO, PeerRig } from './peer-rig.ts';

describe('handshake', () => {
  test('both learn who the other is and which version', async () => {
    const rig = new PeerRig();
    await rig.ready();
    expect(rig.front.ready.hello.name).toBe('back');
    expect(rig.back.ready.hello.name).toBe('front');
    expect([rig.front.ready.version, rig.back.ready.version]).toEqual([1, 1]);
    expect([rig.front.ready.dialled, rig.back.ready.dialled]).toEqual([true, false]);
  });

  test('the accepting side says nothing before HELLO', async () => {
    const rig = new PeerRig();
    const raw = await rig.rawDialler();
    await rig.pass(1_000);
    expect(raw.frames).toEqual([]);
    raw.say(HELLO);
    await rig.until(() => raw.frames.length > 0);
    expect(raw.frames[0]?.kind).toBe('WELCOME');
  });

  test('a peer that offers versions 1 and 2 and unknown fields is welcome', async () => {
    const rig = new PeerRig();
    const hello = { ...helloOf('frontend', 'front', [1, 2]), zones: ['a'], seenMore: { x: 1 } };
    await rig.ready({ frontHello: hello });
    expect(rig.back.ready.version).toBe(1);
    expect(rig.front.ready.version).toBe(1);
    expect(rig.back.ready.hello).toEqual(helloOf('frontend', 'front', [1, 2]));
  });

  test('a peer that offers only version 2 is refused with a clear reason on both sides', async () => {
    const rig = new PeerRig();
    await rig.start({ frontHello: helloOf('frontend', 'front', [2]) });
    await rig.until(() => rig.front.closes.length > 0 && rig.back.closes.length > 0);
    expect(rig.front.closes).toEqual([
      { ready: false, reason: 'refused by the peer: NoCommonVersion: we speak 1, you offer 2' },
    ]);
    expect(rig.back.closes).toEqual([{ ready: false, reason: 'refused: NoCommonVersion: we speak 1, you offer 2' }]);
  });

  test('the highest common version is chosen', () => {
    expect(negotiateVersion([1, 2, 3], [3, 2])).toBe(3);
    expect(negotiateVersion([1, 2], [2, 1, 9])).toBe(2);
    expect(negotiateVersion([1], [])).toBeNull();
  });

  test.each([
    ['name', helloOf('frontend', 'somebody')],
    ['role', helloOf('transport', 'front')],
  ])('a HELLO whose %s is not that of the certificate is refused', async (_what, hello) => {
    const rig = new PeerRig();
    await rig.start({ frontHello: hello });
    await rig.until(() => rig.front.closes.length > 0 && rig.back.closes.length > 0);
    expect(rig.front.reason).toContain('IdentityMismatch');
    expect(rig.back.closes[0]?.ready).toBe(false);
  });

  test('a WELCOME with another name is refused by the dialler', async () => {
    const rig = new PeerRig();
    await rig.start({ backHello: helloOf('transport', 'other') });
    await rig.until(() => rig.front.closes.length > 0 && rig.back.closes.length > 0);
    expect(rig.front.closes[0]).toMatchObject({ ready: false });
    expect(rig.back.closes).toHaveLength(1);
    expect(rig.back.reason).toContain('IdentityMismatch');
  });

  test('the check of either side decides', async () => {
    const refuse = () => ({ kind: 'refuse', reason: 'ChainBroken', detail: 'k 7' }) as const;
    for (const side of ['front', 'back'] as const) {
      const rig = new PeerRig();
      await rig.start({ [side]: { check: refuse } });
      await rig.until(() => rig.front.closes.length > 0 && rig.back.closes.length > 0);
      expect(rig.front.reason).toContain('ChainBroken: k 7');
      expect(rig.back.reason).toContain('ChainBroken: k 7');
    }
  });

  test('silence ends the handshake', async () => {
    const rig = new PeerRig();
    await rig.rawDialler();
    await rig.until(() => rig.back.closes.length > 0);
    expect(rig.back.closes).toEqual([{ ready: false, reason: 'handshake timed out' }]);
  });
});
