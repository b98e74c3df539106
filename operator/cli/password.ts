/**
 * `mailcluster password USER`: a line of a users Secret from a password on stdin, so that the Secret need not hold the password. Owns: its arguments and output.
 * Promise: the password is neither an argument nor printed.
 */
import type { Random } from '../../common/platform/random.ts';
import { UsersFileError, usersFileFromSecret } from '../../common/smtp/users.ts';
import { type Command, parse, UsageError } from './command.ts';

/** `readStdin` waits for its end. */
export const passwordCommandWith = (readStdin: () => string, random: Random): Command => ({
  summary: 'a line for a users Secret (USER:HASH) from a password on stdin',
  help: `Usage: mailcluster password USER < FILE

Reads one line from stdin and prints USER:SCRAM-SHA-256$..., for the key "users" of a Secret that a listener's auth.secretRef names. Where a Secret has one key for
each user, what follows the colon is the value. Such a hash is good for AUTH SCRAM-SHA-256, PLAIN and LOGIN; nobody can log in with the hash itself.

Examples:
  mailcluster password scanner < password.txt
  systemd-ask-password | mailcluster password scanner`,
  run: async (args, context) => {
    const [user = ''] = parse(args, context, {}, [1, 1]).positionals;
    const password = readStdin().replace(/\r?\n$/, '');
    if (/[\r\n]/.test(password)) throw new UsageError('stdin: one line, the password, not several');
    try {
      context.output.out(await usersFileFromSecret({ [user]: password }, random));
    } catch (error) {
      if (error instanceof UsersFileError) throw new UsageError(`${JSON.stringify(user)}: ${error.problem}`);
      throw error;
    }
    return 0;
  },
});
