/** Refusals of the fake API server, worded and shaped like those of the real one (`metav1.Status`). */
export interface Cause {
  readonly reason: string;
  readonly message: string;
  readonly field?: string;
}

export class Refusal extends Error {
  readonly code: number;
  readonly reason: string;
  readonly causes: readonly Cause[];
  constructor(code: number, reason: string, message: string, causes: readonly Cause[] = []) {
    super(message);
    this.code = code;
    this.reason = reason;
    this.causes = causes;
  }

  status(): object {
    return {
      kind: 'Status',
      apiVersion: 'v1',
      metadata: {},
      status: 'Failure',
      message: this.message,
      reason: this.reason,
      ...(this.causes.length > 0 ? { details: { causes: this.causes } } : {}),
      code: this.code,
    };
  }
}

export const notFound = (plural: string, name: string): Refusal =>
  new Refusal(404, 'NotFound', `${plural} "${name}" not found`);
export const conflict = (message: string, causes: readonly Cause[] = []): Refusal =>
  new Refusal(409, 'Conflict', message, causes);
export const invalid = (kind: string, name: string, field: string, message: string): Refusal =>
  new Refusal(422, 'Invalid', `${kind} "${name}" is invalid: ${field}: ${message}`, [
    { reason: 'FieldValueInvalid', message, field },
  ]);
export const expired = (message: string): Refusal => new Refusal(410, 'Expired', message);
