/** @file Keeps the house in order: floors, doors, file sizes, documentation. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

/** The floor of every room; a room imports only rooms on lower floors. ARCHITECTURE.md says why. */
const floors: Record<string, number> = {
  base: 0,
  native: 1,
  trace: 1,
  tensor: 2,
  codegen: 2.5, // above tensor, whose conversions the emulator needs
  transport: 2,
  kv: 2,
  device: 3,
  "deep-gemm": 4,
  "flash-mla": 4,
  elementwise: 4,
  "deep-ep": 4,
  eplb: 4,
  "profile-data": 4,
  "3fs": 4,
  model: 5,
  dualpipe: 5,
  smallpond: 5,
  inference: 6,
  train: 6,
  planner: 7,
  web: 8,
  cli: 9,
  examples: 10,
};

/** Second doors: the part of a room that decides and touches nothing, for planners and browsers. */
const pureDoors = ["inference/planning.ts"];
/** Doors behind which there is no import of Node's, however far one follows. */
const pure = ["eplb/index.ts", "dualpipe/index.ts", "planner/index.ts", ...pureDoors];

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const source = join(root, "src");
const files = readdirSync(source, { recursive: true })
  .map(String)
  .filter((file) => file.endsWith(".ts") && !file.startsWith(join("web", "page")));
const text = new Map(files.map((file) => [file, readFileSync(join(source, file), "utf8")]));
const maxLines = 800;

function roomOf(file: string): string {
  return file.split("/")[0];
}

/** The relative imports of a file, static and dynamic, as paths from `src`. */
function importsOf(file: string): string[] {
  const pattern = /(?:from|import)\s*\(?\s*"(\.[^"]+)"/g;
  return [...(text.get(file) ?? "").matchAll(pattern)].map(([, target]) =>
    relative(source, resolve(source, dirname(file), target)),
  );
}

const inRooms = files.filter((file) => file.includes("/"));

test("every room has a floor", () => {
  const unknown = [...new Set(inRooms.map(roomOf))].filter((room) => !(room in floors));
  assert.deepEqual(unknown, [], "rooms without a floor: add them to `floors` in src/tidy.test.ts");
});

test("a room imports only rooms on lower floors, and only through their doors", () => {
  const faults: string[] = [];
  for (const file of inRooms) {
    const room = roomOf(file);
    for (const target of importsOf(file)) {
      const other = roomOf(target);
      if (other === room) continue;
      if (floors[other] >= floors[room]) {
        faults.push(`${file}: ${room} (floor ${floors[room]}) imports ${other} (${floors[other]})`);
      }
      if (target !== `${other}/index.ts` && !pureDoors.includes(target)) {
        faults.push(`${file}: imports ${target}, not through the door ${other}/index.ts`);
      }
    }
  }
  assert.deepEqual(faults, []);
});

test("what is pure imports nothing of Node's, not even through others", () => {
  const faults: string[] = [];
  const seen = new Set<string>();
  const visit = (file: string, path: readonly string[]) => {
    if (seen.has(file)) return;
    seen.add(file);
    // Imports of types are erased; all others stay.
    const statements =
      /^(?:import|export)\s+(?!type\b)[^;]*?from\s+"([^"]+)"|import\(\s*"([^"]+)"/gm;
    for (const [, fixed, dynamic] of (text.get(file) ?? "").matchAll(statements)) {
      const target = fixed ?? dynamic;
      if (target.startsWith(".")) {
        visit(relative(source, resolve(source, dirname(file), target)), [...path, file]);
      } else {
        faults.push([...path, file, target].join(" → "));
      }
    }
  };
  for (const door of pure) if (text.has(door)) visit(door, []);
  assert.deepEqual(faults, []);
});

test(`no file is longer than ${maxLines} lines`, () => {
  const long = files
    .map((file) => `${file}: ${text.get(file)?.split("\n").length} lines`)
    .filter((line) => Number(line.split(" ")[1]) > maxLines);
  assert.deepEqual(long, []);
});

test("every file but a test says at its top what it is", () => {
  const silent = files.filter(
    (file) =>
      !file.endsWith(".test.ts") && !/^(#!.*\n)?\/\*\*\s+(\* )?@file\b/.test(text.get(file) ?? ""),
  );
  assert.deepEqual(silent, [], "files without a /** @file ... */ header");
});

test("every exported name is documented", () => {
  const faults: string[] = [];
  const declaration =
    /^export (?:declare )?(?:abstract )?(?:async )?(?:function\*?|const|let|class|interface|type) (\w+)/;
  for (const file of files.filter((name) => !name.endsWith(".test.ts"))) {
    const lines = (text.get(file) ?? "").split("\n");
    lines.forEach((line, i) => {
      const name = declaration.exec(line)?.[1];
      // The second and later signatures of an overloaded function share the first one's words.
      const overload =
        lines[i - 1]?.startsWith(`export function ${name}`) || lines[i - 1] === "): void;";
      if (name && !lines[i - 1]?.trimEnd().endsWith("*/") && !overload)
        faults.push(`${file}: ${name}`);
    });
  }
  assert.deepEqual(faults, [], "exported without a docstring on the line above");
});

test("every public room is exported by the package, and every export exists", () => {
  const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  for (const [name, path] of Object.entries<string>(exports)) {
    const door = path.replace("./dist/", "").replace(/\.js$/, ".ts");
    assert.ok(
      existsSync(join(source, door)),
      `package.json exports ${name}, but src/${door} is missing`,
    );
  }
  const hidden = new Set(["base", "cli", "web", "examples"]);
  const rooms = [...new Set(inRooms.map(roomOf))].filter((room) => !hidden.has(room));
  const missing = rooms.filter((room) => !(`./${room}` in exports));
  assert.deepEqual(missing, [], "rooms that package.json does not export");
});
