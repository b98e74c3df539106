/** `mailcluster validate`: exit codes and what it says. */
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { VALIDATE_HELP, validateCommand } from '../../operator/cli/validate.ts';

const EXAMPLES = fileURLToPath(new URL('../../examples/', import.meta.url));

async function validate(args: readonly string[], stdin = '') {
  let out = '';
  let err = '';
  const io = {
    out: (text: string) => {
      out += text;
    },
    err: (text: string) => {
      err += text;
    },
    readStdin: () => stdin,
  };
  return { code: await validateCommand(args, io), out, err };
}

describe('mailcluster validate', () => {
  it('says one line per valid document', async () => {
    expect(await validate(['-f', `${EXAMPLES}two-site-dag.yaml`])).toEqual({
      code: 0,
      out: [
        'valid: MailCluster/contoso: 4 transports in 2 sites, 1 boundary, 2 front ends\n',
        'valid: MailboxDatabase/db01: 2 copies in dag/dag1 of contoso, sea active\n',
        'valid: Secret/relay-users: 1 key\n',
      ].join(''),
      err: '',
    });
  });

  it('notes missing Secrets and passes', async () => {
    const { code, out } = await validate(['-f', `${EXAMPLES}hub-site.yaml`]);
    expect(code).toBe(0);
    expect(out).toMatch(
      /^note: .*hub-site\.yaml:\d+: MailCluster\/adatum {2}spec\.frontend\.tlsSecretRef\.name: there is no Secret mail-tls/m,
    );
  });

  it('says problems on stderr and exits 2', async () => {
    const { code, out, err } = await validate(['--file', `${EXAMPLES}invalid/dag-of-one-member.yaml`]);
    expect([code, out]).toEqual([2, '']);
    expect(err).toMatch(
      /dag-of-one-member\.yaml:\d+: MailCluster\/contoso {2}spec\.dags\[0\]\n {2}wrong: a dag of one member/,
    );
    expect(err).toContain('1 problem; nothing was started or changed.');
  });

  it('reads stdin', async () => {
    const { code, err } = await validate(['-f', '-'], 'kind: Nothing');
    expect(code).toBe(2);
    expect(err).toContain('(stdin):1:');
  });

  it.each([[[]], [['-f']], [['--what', 'x']], [['examples']]])('refuses %j', async (args) => {
    const { code, out, err } = await validate(args);
    expect([code, out]).toEqual([2, '']);
    expect(err).toContain('Usage: mailcluster validate');
  });

  it('helps, and is quiet when asked', async () => {
    expect(await validate(['--help'])).toEqual({ code: 0, out: VALIDATE_HELP, err: '' });
    expect(await validate(['-q', '-f', `${EXAMPLES}no-dag.yaml`])).toEqual({ code: 0, out: '', err: '' });
  });
});
