/** All known-wrong variants that a history can be run with: of the transport and its queue database, and of the front end. */
import { FRONTEND_MUTANTS, type FrontendMutant } from '../../frontend/mutants.ts';
import { MUTANTS, type Mutant } from '../../transport/core/mutants.ts';
import { STORE_MUTANTS, type StoreMutant } from '../../transport/store/mutants.ts';

export const VARIANTS = { ...MUTANTS, ...FRONTEND_MUTANTS } as const;

export type Variant = keyof typeof VARIANTS;
type Variants = ReadonlySet<Variant> | undefined;

const among = <Name extends Variant>(variants: Variants, list: Readonly<Record<Name, string>>): ReadonlySet<Name> =>
  new Set([...(variants ?? [])].filter((name): name is Name => name in list));

export const transportMutants = (variants: Variants): ReadonlySet<Mutant> => among(variants, MUTANTS);
export const storeMutants = (variants: Variants): ReadonlySet<StoreMutant> => among(variants, STORE_MUTANTS);
export const frontendMutants = (variants: Variants): ReadonlySet<FrontendMutant> => among(variants, FRONTEND_MUTANTS);
