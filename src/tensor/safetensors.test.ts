import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { BaleenError, Random } from "../base/index.ts";
import { columnsOf, openSafetensors, type Tensor, tensorOf, writeSafetensors } from "./index.ts";

const folder = mkdtempSync(join(tmpdir(), "baleen-safetensors-"));
after(() => rmSync(folder, { recursive: true }));
let files = 0;

/** A file with this header (an object, or text as it is) and this many bytes of data. */
function fileOf(header: unknown, dataBytes: number | Uint8Array = 0, length?: bigint): string {
  const text = typeof header === "string" ? header : JSON.stringify(header);
  const json = new TextEncoder().encode(text);
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  const data = typeof dataBytes === "number" ? new Uint8Array(dataBytes) : dataBytes;
  return save(Buffer.concat([prefix, json, data]));
}

function save(bytes: Uint8Array): string {
  const path = join(folder, `${files++}.safetensors`);
  writeFileSync(path, bytes);
  return path;
}

function directoryOf(contents: Record<string, string | Uint8Array>): string {
  const path = mkdtempSync(join(folder, "model-"));
  for (const [name, content] of Object.entries(contents)) writeFileSync(join(path, name), content);
  return path;
}

function refusal(action: () => unknown): BaleenError {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof BaleenError, `wanted a BaleenError, got ${error}`);
    return error;
  }
  assert.fail("wanted a BaleenError, got none");
}

const samples: Record<string, Tensor> = {
  "b.bytes": tensorOf("f8e4m3", [3], Uint8Array.of(1, 2, 3)),
  a: tensorOf("f32", [2, 3], Float32Array.of(1, 2, 3, 4, 5, 6)),
  half: tensorOf("bf16", [1, 5], Uint16Array.of(0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0)),
  ids: tensorOf("i32", [2, 1, 2], Int32Array.of(-1, 2, -3, 4)),
  scale: tensorOf("ue8m0", [2], Uint8Array.of(127, 128)),
  e5: tensorOf("f8e5m2", [1], Uint8Array.of(0x3c)),
  scalar: tensorOf("f32", [], Float32Array.of(7)),
  empty: tensorOf("f32", [0, 4], new Float32Array(0)),
  'naïve "name"': tensorOf("i32", [1], Int32Array.of(9)),
};

test("what is written is read back: names, shapes, values, metadata", () => {
  const path = join(folder, "round-trip.safetensors");
  writeSafetensors(path, samples, { format: "pt", note: "é" });
  const file = openSafetensors(path);
  assert.deepEqual(file.metadata, { format: "pt", note: "é" });
  assert.deepEqual([...file.tensors.keys()].sort(), Object.keys(samples).sort());
  for (const [name, wanted] of Object.entries(samples)) {
    const got = file.tensor(name);
    assert.equal(got.dtype, wanted.dtype);
    assert.deepEqual(got.shape, wanted.shape);
    assert.deepEqual(got.data, wanted.data);
  }
  assert.deepEqual(file.f32("half").data, Float32Array.of(1, 2, 3, 4, 5));
  assert.deepEqual(file.f32("scale").data, Float32Array.of(1, 2));
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.endsWith(".tmp")),
    [],
  );
});

test("strided tensors are written without the columns between", () => {
  const wide = tensorOf(
    "f32",
    [3, 4],
    Float32Array.from({ length: 12 }, (_, i) => i),
  );
  const path = join(folder, "strided.safetensors");
  writeSafetensors(path, new Map([["x", columnsOf(wide, 1, 3)]]));
  assert.deepEqual(openSafetensors(path).tensor("x").data, Float32Array.of(1, 2, 5, 6, 9, 10));
});

test("the layout is the format's: golden bytes", () => {
  const path = join(folder, "golden.safetensors");
  writeSafetensors(path, { x: tensorOf("bf16", [2], Uint16Array.of(0x1234, 0xabcd)) });
  // 55 bytes of JSON and a space: the data start at byte 64.
  const header = '{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}} ';
  const wanted = Buffer.from(`\x38\0\0\0\0\0\0\0${header}\x34\x12\xcd\xab`, "latin1");
  assert.deepEqual(readFileSync(path), wanted);
});

test("data that the file misaligns is read all the same", () => {
  const data = new Uint8Array(1 + 8);
  new DataView(data.buffer).setFloat32(1, 1.5, true);
  new DataView(data.buffer).setFloat32(5, -2, true);
  for (let padding = 0; padding < 4; padding++) {
    const header = JSON.stringify({
      a: { dtype: "U8", shape: [1], data_offsets: [0, 1] },
      b: { dtype: "F32", shape: [2], data_offsets: [1, 9] },
    });
    const file = openSafetensors(fileOf(header + " ".repeat(padding), data));
    assert.deepEqual(file.tensor("b").data, Float32Array.of(1.5, -2));
    assert.equal((file.tensor("b").data.byteOffset + file.tensor("b").address) % 4, 0);
  }
});

test("F16 is read as f32; what has no dtype here is listed but not read", () => {
  const path = fileOf(
    {
      half: { dtype: "F16", shape: [2], data_offsets: [0, 4] },
      long: { dtype: "I64", shape: [1], data_offsets: [4, 12] },
    },
    Uint8Array.of(0x00, 0x3c, 0x00, 0xc1, 0, 0, 0, 0, 0, 0, 0, 0),
  );
  const file = openSafetensors(path);
  assert.deepEqual(file.f32("half").data, Float32Array.of(1, -2.5));
  assert.equal(file.info("long").dtype, "I64");
  for (const action of [
    () => file.tensor("half"),
    () => file.tensor("long"),
    () => file.f32("long"),
    () => file.tensor("nowhere"),
  ]) {
    assert.equal(refusal(action).code, "tensor-unavailable");
  }
});

const one = { dtype: "F32", shape: [1], data_offsets: [0, 4] };

const lies: [string, () => string, RegExp][] = [
  ["an empty file", () => save(new Uint8Array(0)), /too short/],
  ["seven bytes", () => save(new Uint8Array(7)), /too short/],
  ["a header beyond the file", () => fileOf("{}", 0, 1000n), /header length is 1000 bytes/],
  ["a header of 101 MB", () => fileOf("{}", 0, 101_000_000n), /beyond the limit/],
  ["a header of 2^63 bytes", () => fileOf("{}", 0, 2n ** 63n), /beyond the limit/],
  ["a header of no bytes", () => fileOf("", 0), /does not start with/],
  ["a byte order mark", () => fileOf("\ufeff{}"), /does not start with/],
  ["broken JSON", () => fileOf('{"a":'), /not valid JSON/],
  ["a list", () => fileOf("[]"), /does not start with/],
  [
    "bytes that are no UTF-8",
    () => save(Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0xff])),
    /UTF-8/,
  ],
  [
    "a name twice",
    () => fileOf(`{"a":${JSON.stringify(one)},"a":${JSON.stringify(one)}}`, 4),
    /"a" twice/,
  ],
  [
    "a name twice, once escaped, far from its colon",
    () =>
      fileOf(`{"a":${JSON.stringify(one)},"\\u0061"${" ".repeat(99)}:${JSON.stringify(one)}}`, 4),
    /"a" twice/,
  ],
  [
    "a dtype twice",
    () => fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"dtype":"I32"}}', 4),
    /"dtype" twice/,
  ],
  ["metadata that are no strings", () => fileOf({ __metadata__: { a: 1 } }), /__metadata__/],
  ["metadata in a list", () => fileOf({ __metadata__: ["a"] }), /__metadata__/],
  ["an unknown dtype", () => fileOf({ a: { ...one, dtype: "F4" } }, 4), /"a": dtype is "F4"/],
  [
    "an inherited name for a dtype",
    () => fileOf({ a: { ...one, dtype: "toString" } }, 4),
    /dtype is/,
  ],
  ["no dtype", () => fileOf({ a: { shape: [1], data_offsets: [0, 4] } }, 4), /dtype is missing/],
  ["a null entry", () => fileOf({ a: null }), /"a" is not an object/],
  ["a negative size", () => fileOf({ a: { ...one, shape: [-1] } }, 4), /"a": shape is \[-1\]/],
  ["a fractional size", () => fileOf({ a: { ...one, shape: [0.5] } }, 4), /shape/],
  ["a size in words", () => fileOf({ a: { ...one, shape: ["1"] } }, 4), /shape/],
  ["no shape", () => fileOf({ a: { dtype: "F32", data_offsets: [0, 4] } }, 4), /shape is missing/],
  [
    "a size beyond 2^53",
    () => fileOf('{"a":{"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,4]}}', 4),
    /shape/,
  ],
  [
    "sizes whose product overflows",
    () => fileOf({ a: { ...one, shape: [2 ** 40, 2 ** 40] } }, 4),
    /too large/,
  ],
  [
    "sizes whose product wraps to 4",
    () => fileOf({ a: { ...one, shape: [2 ** 32, 2 ** 32, 1] } }, 4),
    /too large/,
  ],
  [
    "offsets of another size",
    () => fileOf({ a: { ...one, shape: [2] } }, 4),
    /span 4 bytes, but F32 \[2\] takes 8/,
  ],
  [
    "offsets that run backwards",
    () => fileOf({ a: { ...one, data_offsets: [4, 0] } }, 4),
    /data_offsets/,
  ],
  ["three offsets", () => fileOf({ a: { ...one, data_offsets: [0, 4, 8] } }, 8), /data_offsets/],
  ["a negative offset", () => fileOf({ a: { ...one, data_offsets: [-4, 0] } }, 4), /data_offsets/],
  [
    "overlapping tensors",
    () => fileOf({ a: one, b: { ...one, data_offsets: [2, 6] } }, 6),
    /"b".*overlap/,
  ],
  ["the same bytes twice", () => fileOf({ a: one, b: one }, 4), /overlap/],
  [
    "a hole between tensors",
    () => fileOf({ a: one, b: { ...one, data_offsets: [8, 12] } }, 12),
    /"b".*hole/,
  ],
  ["a hole before the first", () => fileOf({ a: { ...one, data_offsets: [4, 8] } }, 8), /hole/],
  [
    "a truncated file",
    () => fileOf({ a: { ...one, shape: [100], data_offsets: [0, 400] } }, 399),
    /ends at byte/,
  ],
  ["bytes after the last tensor", () => fileOf({ a: one }, 5), /1 B follow/],
];

for (const [what, make, message] of lies) {
  test(`${what} is refused, naming file and field`, () => {
    const path = make();
    const error = refusal(() => openSafetensors(path));
    assert.equal(error.code, "tensors-invalid");
    assert.ok(error.message.startsWith(path), error.message);
    assert.match(error.message, message);
  });
}

test("a name may be of megabytes, with quotes and backslashes in it", () => {
  for (const name of ["x".repeat(20_000_000), '\\"'.repeat(1000), "\\", 'a":{']) {
    const file = openSafetensors(
      fileOf({ [name]: one, other: { ...one, data_offsets: [4, 8] } }, 8),
    );
    assert.deepEqual([...file.tensors.keys()], [name, "other"]);
  }
});

test("a name of Object's own is a name like any other", () => {
  const file = openSafetensors(
    fileOf('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
  );
  assert.deepEqual([...file.tensors.keys()], ["__proto__"]);
});

test("shards are found through the index, and each tensor comes from its own", () => {
  const first = readFileSync(
    fileOf(
      { a: one, spare: { ...one, data_offsets: [4, 8] } },
      Uint8Array.of(0, 0, 128, 63, 0, 0, 0, 0),
    ),
  );
  const second = readFileSync(
    fileOf({ b: one, a: { ...one, data_offsets: [4, 8] } }, Uint8Array.of(0, 0, 0, 64, 9, 9, 9, 9)),
  );
  const weight_map = { a: "x-00001-of-00002.safetensors", b: "x-00002-of-00002.safetensors" };
  const path = directoryOf({
    "model.safetensors.index.json": JSON.stringify({ metadata: { total_size: 8 }, weight_map }),
    "x-00001-of-00002.safetensors": first,
    "x-00002-of-00002.safetensors": second,
  });
  const model = openSafetensors(path);
  assert.deepEqual([...model.tensors.keys()], ["a", "b"]);
  assert.equal(model.tensor("a").data[0], 1);
  assert.equal(model.tensor("b").data[0], 2);
});

test("a single model.safetensors serves a directory, and a bare directory is refused", () => {
  const file = readFileSync(fileOf({ a: one }, 4));
  assert.equal(openSafetensors(directoryOf({ "model.safetensors": file })).tensors.size, 1);
  assert.equal(refusal(() => openSafetensors(directoryOf({}))).code, "tensors-missing");
  assert.equal(refusal(() => openSafetensors(join(folder, "nowhere"))).code, "tensors-missing");
});

test("an index that lies is refused", () => {
  const shard = readFileSync(fileOf({ a: one }, 4));
  const index = (weight_map: unknown) =>
    directoryOf({
      "model.safetensors.index.json": JSON.stringify({ weight_map }),
      "a.safetensors": shard,
    });
  for (const [map, code, message] of [
    [{ a: "gone.safetensors" }, "tensors-missing", /gone\.safetensors, which is not there/],
    [{ b: "a.safetensors" }, "tensors-invalid", /puts "b" in a\.safetensors, which lacks it/],
    [{ a: "../a.safetensors" }, "tensors-invalid", /"\.\.\/a\.safetensors", not a/],
    [{ a: "/etc/passwd" }, "tensors-invalid", /not a \.safetensors file name/],
    [{ a: "..\\a.safetensors" }, "tensors-invalid", /not a \.safetensors file name/],
    [{ a: "model.safetensors.index.json" }, "tensors-invalid", /not a \.safetensors file name/],
    [{ a: 3 }, "tensors-invalid", /not a \.safetensors file name/],
    [[], "tensors-invalid", /weight_map is not an object/],
    [undefined, "tensors-invalid", /weight_map is not an object/],
  ] as const) {
    const error = refusal(() => openSafetensors(index(map)));
    assert.equal(error.code, code);
    assert.match(error.message, message);
  }
  const broken = directoryOf({ "model.safetensors.index.json": "{" });
  assert.match(refusal(() => openSafetensors(broken)).message, /not valid JSON/);
});

test("a file that can't be written leaves nothing behind and says why", () => {
  const path = join(folder, "no-such-folder", "x.safetensors");
  const error = refusal(() => writeSafetensors(path, samples));
  assert.equal(error.code, "tensors-unwritable");
  assert.match(error.message, /ENOENT/);
});

test("a damaged file is either read or refused with a BaleenError, whatever the damage", () => {
  const seed = Date.now() >>> 0;
  console.log(`safetensors fuzz seed ${seed}`);
  const random = new Random(seed);
  const whole = join(folder, "whole.safetensors");
  writeSafetensors(whole, samples, { format: "pt" });
  const bytes = readFileSync(whole);
  const headerEnd = 8 + Number(bytes.readBigUInt64LE(0));
  const damaged = join(folder, "damaged.safetensors");
  let refused = 0;
  for (let round = 0; round < 1500; round++) {
    let copy = Buffer.from(bytes);
    for (let flips = 1 + random.below(4); flips > 0; flips--) {
      // Mostly in the header, where damage matters.
      const at = random.below(random.below(8) ? headerEnd : copy.length);
      copy[at] ^= 1 << random.below(8);
    }
    if (random.below(4) === 0) copy = copy.subarray(0, random.below(copy.length));
    // A new file each time: the last one may still be mapped.
    rmSync(damaged, { force: true });
    writeFileSync(damaged, copy);
    try {
      const file = openSafetensors(damaged);
      for (const name of file.tensors.keys()) file.tensor(name);
    } catch (error) {
      assert.ok(error instanceof BaleenError, `round ${round}: ${(error as Error).stack}`);
      refused++;
    }
  }
  assert.ok(refused > 500, `only ${refused} refused`);
});
