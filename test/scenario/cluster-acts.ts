/** What a person or an operator does to a whole cluster, as words of the scenarios: volumes, members, mailbox copies, requests (test/sim/orchestrator.ts). */
import type { ResubmitRequestConfig } from '../../common/config.ts';
import { cancelDrain, cancelRequest, drain, failOver, hand, resubmit, sayLost, scaleUp } from '../sim/orchestrator.ts';
import type { Pod } from '../sim/pod.ts';
import { damageRest } from '../sim/scrub-checks.ts';
import { clone, restore, type Snapshot, snapshot, wipe } from '../sim/volumes.ts';
import type { World } from '../sim/world.ts';

export class ClusterActs {
  readonly #snapshots = new Map<string, Snapshot>();
  /** How many copies had been fetched again when the medium of a member was damaged. */
  readonly #refetches = new Map<string, number>();

  isMended(world: World, name: string): boolean {
    return refetches(world) > (this.#refetches.get(name) ?? 0);
  }

  /** False when the verb is none of these. */
  act(world: World, verb: string, who: (word: string) => string, words: readonly string[]): boolean {
    const [first = '', second = ''] = words;
    const pod = (): Pod => podOf(world, who(first));
    switch (verb) {
      case 'wipe':
        wipe(world, pod(), false);
        return true;
      case 'gone': {
        const { identity } = pod().volume;
        const { name } = pod();
        wipe(world, pod(), true);
        sayLost(world, name, identity);
        return true;
      }
      case 'word':
        sayLost(world, pod().name, pod().volume.identity);
        return true;
      case 'snapshot':
        this.#snapshots.set(pod().key, snapshot(world, pod()));
        return true;
      case 'restore': {
        const taken = this.#snapshots.get(pod().key);
        if (taken === undefined) throw new Error(`no snapshot of ${first}`);
        restore(world, pod(), taken);
        world.boot(pod().key);
        return true;
      }
      case 'damage':
        damageRest(world, pod());
        this.#refetches.set(pod().name, refetches(world));
        return true;
      case 'clone':
        world.troubled([pod().name], 60_000);
        world.boot(clone(world, pod()).key);
        return true;
      case 'stall':
        world.stall(pod().key, Number(second));
        return true;
      case 'drain':
        if (!drain(world, pod())) throw new Error(`${first} cannot be drained now`);
        return true;
      case 'undrain':
        cancelDrain(world, pod().name);
        return true;
      case 'scale-up':
        scaleUp(world, pod().name);
        return true;
      case 'late':
        pod().isOutOfReach = true;
        world.troubled([pod().name], 60_000);
        return true;
      case 'reach':
        pod().isOutOfReach = false;
        hand(world, pod());
        return true;
      case 'failover':
        failOver(world, first, Number(second));
        return true;
      case 'resubmit':
        resubmit(world, fieldsOf(words));
        return true;
      case 'cancel':
        cancelRequest(world, first);
        return true;
      default:
        return false;
    }
  }
}

const refetches = (world: World): number => world.coverage.get('Refetched') ?? 0;

function podOf(world: World, name: string): Pod {
  const pod = world.pod(name);
  if (pod === undefined) throw new Error(`no pod ${name}`);
  return pod;
}

/** database=alpha sender=a@b recipient=a@b messageId=<0@sim> dry */
function fieldsOf(words: readonly string[]): Partial<ResubmitRequestConfig> {
  const fields: Record<string, string | boolean> = {};
  for (const word of words) {
    const [key = '', value] = word.split('=');
    if (word === 'dry') fields.dryRun = true;
    else if (value !== undefined) fields[key] = value;
    else throw new Error(`unknown part ${word} of a request`);
  }
  return fields;
}
