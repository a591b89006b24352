/** @file A run of operations that is the same in every pass of a size: recorded, then replayed. */
import type { Device, LaunchList } from "../device/index.ts";

/**
 * Operations whose arguments depend on nothing but a few things, the key. The first run with a key
 * runs them as they are (it makes buffers and kernels), the second records them, and from then on
 * they run in machine code, entered once: a decode step is that short. A new key begins anew.
 */
export class Segment {
  private key: readonly unknown[] = [];
  private list: LaunchList | undefined;

  /** Does what `operations` does; see the class. They must not read what they compute. */
  run(device: Device, key: readonly unknown[], operations: () => void): void {
    const isKnown = key.length === this.key.length && key.every((part, i) => part === this.key[i]);
    if (!isKnown) {
      this.key = key;
      this.list = undefined;
      operations();
      return;
    }
    this.list ??= device.record(operations);
    this.list.run();
  }
}
