import assert from "node:assert/strict";
import { test } from "node:test";
import { ChunkEngine } from "./engine.ts";
import { StorageNode } from "./node.ts";
import { SimulatedMedium } from "./simulated-disk.ts";
import { Simulation } from "./testing/simulator.ts";

/** Replaces a property of a class and returns what puts it back. */
function replace(owner: object, name: string, property: PropertyDescriptor): () => void {
  const old = Object.getOwnPropertyDescriptor(owner, name)!;
  Object.defineProperty(owner, name, { ...property, configurable: true });
  return () => Object.defineProperty(owner, name, old);
}

const { open } = SimulatedMedium.prototype;

/** Each takes one safeguard out; the simulator must notice each. */
const mutants: Record<string, () => () => void> = {
  "a target forgets its channels": () =>
    replace(ChunkEngine.prototype, "channel", { value: () => undefined }),
  "an update is acknowledged before its successor has it": () =>
    replace(StorageNode.prototype, "send", { value: async () => {} }),
  "data is not flushed before the record that names it": () =>
    replace(SimulatedMedium.prototype, "open", {
      value(this: SimulatedMedium) {
        const { disk, store } = open.call(this);
        return { disk: { ...disk, flush: async () => {} }, store };
      },
    }),
};

for (const [name, mutate] of Object.entries(mutants)) {
  test(`the simulator notices when ${name}`, async () => {
    const restore = mutate();
    try {
      for (let seed = 1; seed <= 40; seed++) {
        const outcome = await new Simulation({ seed, nodes: 2 + (seed % 2) }).run().then(
          () => "",
          (error) => String(error.message),
        );
        if (outcome === "") continue;
        return;
      }
      assert.fail("40 seeds passed");
    } finally {
      restore();
    }
  });
}
