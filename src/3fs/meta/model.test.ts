import assert from "node:assert/strict";
import { test } from "node:test";
import { isLinearizable, type ObservedOperation, Random } from "../../base/index.ts";
import { faultyKv, openMemoryKv, transact } from "../../kv/index.ts";
import { records } from "./records.ts";
import {
  applyToMeta,
  applyToModel,
  emptyModel,
  type ModelOperation,
  type ModelState,
} from "./testing/model.ts";
import { openWorld, root, type World } from "./testing/world.ts";

const seeds = Number(process.env.BALEEN_SEEDS ?? 25);
const firstSeed = Date.now() % 1e6;

/** A random operation over few names, so that operations meet. */
function draw(random: Random, names: readonly string[], depth: number): ModelOperation {
  const path = () => {
    let text = "";
    for (let i = 0; i <= random.below(depth); i++) text += `/${names[random.below(names.length)]}`;
    return text;
  };
  const kinds = [
    "mkdir",
    "mkdir",
    "create",
    "create",
    "symlink",
    "rmdir",
    "unlink",
    "rmtree",
    "stat",
    "list",
    "truncate",
    "rename",
    "rename",
    "rename",
    "link",
    "exchange",
  ] as const;
  const kind = kinds[random.below(kinds.length)];
  if (kind === "truncate") return { kind, path: path(), length: random.below(3) * 70_000 };
  if (kind === "rename" || kind === "link" || kind === "exchange") {
    return { kind, path: path(), to: path() };
  }
  return { kind, path: path() };
}

/** Whether the walk meets a link, which the model does not follow. */
function meetsLink(state: ModelState, path: string): boolean {
  let id: number | undefined = 1;
  const names = path.split("/").filter(Boolean);
  for (const [i, name] of names.entries()) {
    id = state.inodes[id!]?.entries[name];
    if (id === undefined) return false;
    if (i < names.length - 1 && state.inodes[id].kind === "symlink") return true;
  }
  return false;
}

/** Every path of the service with what it names, compared with the model's. */
async function compareTrees({ meta }: World, state: ModelState, words: string): Promise<void> {
  const compare = async (id: number, modelId: number, path: string): Promise<void> => {
    const { entries } = await meta.readdir(root, id, { withInodes: true });
    const model = state.inodes[modelId].entries;
    assert.deepEqual(
      entries.map(({ name }) => name),
      Object.keys(model).sort(),
      `${words}: names in ${path}`,
    );
    for (const { name, inode } of entries) {
      const wanted = state.inodes[model[name]];
      assert.equal(inode?.kind, wanted.kind, `${words}: kind of ${path}${name}`);
      assert.equal(inode?.links, wanted.links, `${words}: links of ${path}${name}`);
      assert.equal(inode?.length, wanted.length, `${words}: length of ${path}${name}`);
      if (inode?.kind !== "directory") continue;
      assert.equal(inode.name, name);
      assert.equal(await meta.realPath(root, inode.id), `${path}${name}`);
      await compare(inode.id, model[name], `${path}${name}/`);
    }
  };
  await compare(1, 1, "/");
}

test("random operations, sent twice at times, over a failing store, do what a simple model does", async () => {
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const random = new Random(seed);
    const rates = {
      conflict: 0.1,
      throttled: 0.02,
      lostAfter: 0.08,
      lostBefore: 0.08,
      tooOld: 0.01,
    };
    const world = await openWorld(faultyKv(openMemoryKv(), rates, random));
    const other = world.another();
    let state = emptyModel();
    for (let i = 1; i <= 80; i++) {
      const operation = draw(random, ["a", "b", "c"], 3);
      const paths = [operation.path, "to" in operation ? operation.to : ""];
      if (paths.some((path) => meetsLink(state, path))) continue;
      const request = { clientId: "c", requestId: i, ackedBelow: i };
      const { state: after, answer } = applyToModel(state, operation);
      const words = `seed ${seed}, step ${i}, ${JSON.stringify(operation)}`;
      const caller = { ...root, request };
      assert.equal(await applyToMeta(world.meta, caller, operation), answer, words);
      const isRepeatable = answer === "ok" && !["truncate", "link"].includes(operation.kind);
      if (isRepeatable && random.below(3) === 0) {
        // The answer was lost and the client asks another instance.
        const again = await applyToMeta(other, caller, operation);
        assert.equal(again, "ok", `${words}, again`);
      }
      state = after;
      if (i % 20 === 0) await world.collectAll();
    }
    await compareTrees(world, state, `seed ${seed}`);
    await world.collectAll();
    const live = Object.keys(state.inodes).length;
    const inodes = await transact(world.store, (transaction) => records.inodes.list(transaction));
    assert.equal(inodes.length, live, `seed ${seed}: inodes left behind`);
  }
});

test("concurrent operations of three clients are linearisable", async () => {
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const random = new Random(seed);
    const rates = { conflict: 0.05, lostAfter: 0.05, lostBefore: 0.05 };
    const world = await openWorld(faultyKv(openMemoryKv(), rates, random));
    let time = 0;
    const client = async (name: string, chance: Random) => {
      const meta = world.another();
      const history: ObservedOperation<ModelState>[] = [];
      for (let i = 1; i <= 8; i++) {
        const drawn = draw(chance, ["a", "b"], 2);
        // Links and listings take two requests here, and are no single operation.
        const isSingle = !["link", "list", "truncate", "symlink"].includes(drawn.kind);
        const operation: ModelOperation = isSingle ? drawn : { kind: "mkdir", path: drawn.path };
        const request = { clientId: name, requestId: i, ackedBelow: i };
        const startedAt = ++time;
        const answer = await applyToMeta(meta, { ...root, request }, operation);
        history.push({
          startedAt,
          endedAt: ++time,
          step: (state) => {
            const next = applyToModel(state, operation);
            return next.answer === answer ? next.state : undefined;
          },
        });
      }
      return history;
    };
    const clients = ["x", "y", "z"].map((name, i) => client(name, new Random(seed * 3 + i)));
    const history = (await Promise.all(clients)).flat();
    const keyOf = (state: ModelState) => JSON.stringify(shapeOf(state, 1));
    assert.ok(isLinearizable(emptyModel(), history, keyOf), `seed ${seed}`);
  }
});

/** The tree without the ids, which depend on the order. */
function shapeOf({ inodes }: ModelState, id: number): unknown {
  const { kind, links, entries } = inodes[id];
  const names = Object.keys(entries).sort();
  return [kind, links, names.map((name) => [name, shapeOf({ next: 0, inodes }, entries[name])])];
}
