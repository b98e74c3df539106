/** One life of a simulated process. Ports are bound to it: once `alive` is false nothing they hold settles or calls back. */
export interface Incarnation {
  alive: boolean;
}
