/** @file The commands as users run them: child processes, real files, the shipped model. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { loadModel } from "../model/index.ts";
import { openSafetensors } from "../tensor/index.ts";
import { packageRoot, shippedModel } from "./package.ts";

const main = fileURLToPath(new URL("./main.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "baleen-cli-"));
after(() => rmSync(folder, { recursive: true }));

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function start(argv: readonly string[], env: Record<string, string> = {}): ChildProcess {
  return spawn(process.execPath, [main, ...argv], {
    env: { ...process.env, ...env },
    stdio: ["pipe", "pipe", "pipe"],
  });
}

async function baleen(
  argv: readonly string[],
  input = "",
  env: Record<string, string> = {},
): Promise<Outcome> {
  const child = start(argv, env);
  let [stdout, stderr] = ["", ""];
  child.stdout!.on("data", (piece) => {
    stdout += piece;
  });
  child.stderr!.on("data", (piece) => {
    stderr += piece;
  });
  child.stdin!.end(input);
  const [status] = await once(child, "close");
  return { status, stdout, stderr };
}

test("help names every command, and a command's help every flag", async () => {
  const [help, serveHelp, version] = await Promise.all([
    baleen(["--help"]),
    baleen(["serve", "--port", "1", "--help"]),
    baleen(["--version"]),
  ]);
  for (const name of ["serve", "generate", "logits", "tokenize", "inspect", "bench", "profile"]) {
    assert.match(help.stdout, new RegExp(`^  ${name} +[A-Z]`, "m"));
  }
  for (const flag of ["--model DIR", "--port N", "--api-key KEY", "--no-mtp", "--kv-memory SIZE"]) {
    assert.ok(serveHelp.stdout.includes(flag), flag);
  }
  const json = JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8"));
  assert.equal(version.stdout, `${json.version}\n`);
  assert.deepEqual([help.status, serveHelp.status, version.status], [0, 0, 0]);
});

test("mistakes end with status 2, failures with 1: one sentence each, and no stack", async () => {
  const cases: readonly (readonly [argv: string[], status: number, says: RegExp])[] = [
    [["srve"], 2, /^baleen: There is no command srve: did you mean serve\?\n$/],
    [
      ["--verbose"],
      2,
      /^baleen: There is no flag --verbose: baleen --help lists the commands\.\n$/,
    ],
    [["logits", "--out", "x"], 2, /^baleen: --prompts is missing: name a file\.\n$/],
    [["generate", "hello"], 2, /^baleen: Give the text as --prompt "hello"\.\n$/],
    [["inspect", "/nowhere"], 1, /^baleen: \/nowhere does not exist: give --model .*\.\n$/],
    [["serve", "--model", folder], 1, /^baleen: .* has no config\.json: give --model .*\.\n$/],
    [
      ["logits", "--prompts", "/nowhere", "--out", "x"],
      1,
      /^baleen: \/nowhere can't be read .*\n$/,
    ],
    [["bench", "--url", "http://127.0.0.1:9"], 1, /^baleen: Nobody answers at .*\.\n$/],
    [["profile"], 2, /^baleen: profile takes traces: give one or more files .*\.\n$/],
    [
      ["profile", "/nowhere"],
      1,
      /^baleen: \/nowhere can't be read \(ENOENT\): check the path\.\n$/,
    ],
    [
      ["profile", "x", "--communication", "("],
      2,
      /^baleen: --communication: "\(" is no reg.*\.\n$/,
    ],
  ];
  const outcomes = await Promise.all(cases.map(([argv]) => baleen(argv)));
  outcomes.forEach(({ status, stdout, stderr }, index) => {
    const [argv, wanted, says] = cases[index];
    assert.match(stderr, says, argv.join(" "));
    assert.deepEqual([status, stdout], [wanted, ""], argv.join(" "));
  });
});

test("a text becomes ids and pieces, and ids the text again", async () => {
  const text = "It is a truth, é 🐋";
  const [table, ids] = await Promise.all([
    baleen(["tokenize", text]),
    baleen(["tokenize", "--ids"], text),
  ]);
  const [line, ...pieces] = table.stdout.trimEnd().split("\n");
  assert.equal(`${line}\n`, ids.stdout);
  const list = JSON.parse(line) as number[];
  assert.equal(pieces.length, list.length);
  assert.match(pieces[0], /^ +\d+ {2}"It"$/);
  const [back, bad] = await Promise.all([
    baleen(["tokenize", "--decode"], ids.stdout),
    baleen(["tokenize", "--decode", "1", "2048"]),
  ]);
  assert.equal(back.stdout, `${text}\n`);
  assert.deepEqual([bad.status, bad.stdout], [1, ""]);
  assert.match(bad.stderr, /ids\[1\] is 2048: give a list of token ids from 0 to 2047\./);
});

test("inspect tells parameters, bytes, cache and device", async () => {
  const { status, stdout } = await baleen(["inspect", "--json"]);
  assert.equal(status, 0);
  const report = JSON.parse(stdout);
  const { total, mtp, embedding, routedExperts } = report.parameters;
  assert.ok(total > 6e6 && total < 8e6 && mtp > 0);
  assert.equal(embedding, 2048 * 256);
  // Three layers of eight experts, each three matrices of 256 x 128.
  assert.equal(routedExperts, 3 * 8 * 3 * 256 * 128);
  assert.equal(report.cacheBytesPerToken, 5 * (128 + 32) * 4);
  assert.ok(report.bytesByDtype.F8_E4M3 > report.bytesByDtype.F32);
});

test("logits are the model's own, for prompts longer than a pass too", async () => {
  const prompts = [[5], Array.from({ length: 700 }, (_, index) => (index * 37) % 2048)];
  const [file, out] = [join(folder, "prompts.json"), join(folder, "logits.safetensors")];
  writeFileSync(file, JSON.stringify(prompts));
  const { status, stderr } = await baleen(["logits", "--prompts", file, "--out", out]);
  assert.equal(status, 0);
  assert.match(stderr, /^(baleen: .* reference: .*\n)?$/);
  const written = openSafetensors(out);
  assert.deepEqual([...written.tensors.keys()].sort(), ["p0.logits", "p1.logits"]);
  const model = await loadModel(shippedModel);
  try {
    const cache = model.openCache(11);
    const blockTable = Int32Array.from({ length: 11 }, (_, page) => page);
    for (const [index, prompt] of prompts.entries()) {
      const tokens = Int32Array.from(prompt);
      const { logits } = model.forward(cache, [
        { tokens, position: 0, blockTable, logitRows: tokens.length },
      ]);
      const got = written.f32(`p${index}.logits`);
      assert.deepEqual(got.shape, [prompt.length, 2048]);
      assert.ok(
        Buffer.from(got.data.buffer, got.data.byteOffset, got.data.byteLength).equals(
          Buffer.from(logits.data.buffer, logits.data.byteOffset, prompt.length * 2048 * 4),
        ),
      );
    }
  } finally {
    model.close();
  }
  writeFileSync(file, "[[1, 2048]]");
  const bad = await baleen(["logits", "--prompts", file, "--out", out]);
  assert.equal(bad.status, 1);
  assert.match(bad.stderr, /prompt 0\[1\] is 2048: give a list of token ids from 0 to 2047\./);
});

const golden = join(packageRoot, "..", "shared", "golden", "llm", "v3-tiny");

test("f32 logits of the golden checkpoint are within 1e-3 of the reference", async (t) => {
  if (!existsSync(golden)) return t.skip("the shared golden data is not there");
  const { prompts } = JSON.parse(readFileSync(join(golden, "golden.json"), "utf8"));
  const [file, out] = [join(folder, "golden.json"), join(folder, "golden.safetensors")];
  writeFileSync(file, JSON.stringify(prompts));
  const flags = ["--model", golden, "--prompts", file, "--out", out, "--precision", "f32"];
  assert.equal((await baleen(["logits", ...flags])).status, 0);
  const [got, wanted] = [openSafetensors(out), openSafetensors(join(golden, "golden.safetensors"))];
  for (const name of ["p0.logits", "p1.logits", "p2.logits"]) {
    const [ours, theirs] = [got.f32(name), wanted.f32(name)];
    assert.deepEqual(ours.shape, theirs.shape);
    const worst = ours.data.reduce((most, x, i) => Math.max(most, Math.abs(x - theirs.data[i])), 0);
    assert.ok(worst <= 1e-3, `${name}: ${worst}`);
  }
});

test("generate gives the same text for the same seed, from a flag or a pipe", async () => {
  const text = "It is a truth universally acknowledged";
  const flags = ["generate", "--max-tokens", "12", "--seed", "5"];
  const [first, second, greedy, chat] = await Promise.all([
    baleen([...flags, "--prompt", text]),
    baleen([...flags, "--no-mtp"], text),
    baleen([...flags, "--temperature", "0", "--rung", "reference"], text),
    baleen([...flags, "--chat", "--null-engine"], text),
  ]);
  assert.equal(first.status, 0);
  // A machine without machine code says so in one line.
  assert.match(first.stderr, /^(baleen: .* reference: .*\n)?$/);
  assert.ok(first.stdout.length > 20);
  assert.equal(second.stdout, first.stdout);
  assert.equal(greedy.status, 0);
  assert.notEqual(greedy.stdout, first.stdout);
  assert.equal(chat.status, 0);
});

test("where machine code can't run, one line says why and the answer comes all the same", async () => {
  const env = { BALEEN_NO_NATIVE: "1" };
  const flags = ["generate", "--max-tokens", "3", "--prompt", "She was"];
  const [told, asked] = await Promise.all([
    baleen(flags, "", env),
    baleen([...flags, "--rung", "reference"], "", env),
  ]);
  assert.deepEqual([told.status, asked.status, asked.stderr], [0, 0, ""]);
  assert.match(told.stderr, /^baleen: .* reference: .*BALEEN_NO_NATIVE.*plain TypeScript\n$/);
  assert.ok(told.stdout.length > 1);
});

test("a cache of bf16 takes half the memory", async () => {
  const [wide, narrow] = await Promise.all([
    baleen(["inspect", "--json"]),
    baleen(["inspect", "--json", "--kv-dtype", "bf16"]),
  ]);
  const [whole, half] = [wide, narrow].map(({ stdout }) => JSON.parse(stdout).cacheBytesPerToken);
  assert.equal(half, whole / 2);
  const answer = ["generate", "--kv-dtype", "bf16", "--max-tokens", "3", "--prompt", "She was"];
  assert.equal((await baleen(answer)).status, 0);
});

interface Serving {
  readonly child: ChildProcess;
  readonly url: string;
  readonly exit: Promise<number | null>;
  /** What it has printed so far. */
  readonly output: () => string;
}

async function serving(
  argv: readonly string[],
  env: Record<string, string> = {},
): Promise<Serving> {
  const child = start(["serve", "--port", "0", ...argv], env);
  const exit = once(child, "exit").then(([status]) => status as number | null);
  let output = "";
  await new Promise<void>((resolve, reject) => {
    child.stdout!.on("data", (piece) => {
      output += piece;
      if (output.includes("curl ")) resolve();
    });
    child.stderr!.on("data", (piece) => {
      output += piece;
    });
    exit.then(() => reject(new Error(`serve ended: ${output}`)));
  });
  return { child, url: /http:\/\/localhost:\d+/.exec(output)![0], exit, output: () => output };
}

function complete(url: string, body: object, headers: object = {}): Promise<Response> {
  return fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

test("serve prints a curl line that works and a passage; SIGTERM loses no answer", async () => {
  const { child, url, exit, output } = await serving([]);
  const line = /^curl .*$/m.exec(output())![0];
  const shell = spawn("sh", ["-c", `command -v curl >/dev/null || exit 127; ${line}`]);
  let answer = "";
  shell.stdout.on("data", (piece) => {
    answer += piece;
  });
  const [status] = await once(shell, "close");
  if (status !== 127) assert.equal(JSON.parse(answer).usage.completion_tokens, 60);
  while (!/truth universally acknowledged.{40}/s.test(output().split("\n\n").at(-1)!)) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const answers = Array.from({ length: 12 }, async (_, index) => {
    const stream = index % 2 === 0;
    const response = await complete(url, {
      prompt: "It was",
      max_tokens: 400,
      seed: index,
      stream,
    });
    return { status: response.status, text: await response.text() };
  });
  const running = async (): Promise<string> => (await fetch(`${url}/metrics`)).text();
  while (!/^baleen_requests_running 12$/m.test(await running()));
  child.kill("SIGTERM");
  for (const { status: got, text } of await Promise.all(answers)) {
    assert.equal(got, 200, text);
    assert.match(text, /"finish_reason":"length"/);
  }
  assert.equal(await exit, 0);
});

test("serve asks for its keys, tells of a taken port, and is measured by bench", async () => {
  const { child, url, exit } = await serving(
    ["--null-engine", "--api-key", "k1", "--name", "nobody/nothing"],
    { BALEEN_API_KEYS: "k2, k3" },
  );
  assert.equal((await complete(url, { prompt: "a" })).status, 401);
  for (const key of ["k1", "k3"]) {
    const response = await complete(url, { prompt: "a" }, { authorization: `Bearer ${key}` });
    assert.equal(response.status, 200);
    assert.equal(((await response.json()) as { model: string }).model, "nobody/nothing");
  }
  const load = ["--requests", "6", "--streams", "3", "--output-tokens", "5", "--json"];
  const port = new URL(url).port;
  const [taken, remote, open] = await Promise.all([
    baleen(["serve", "--null-engine", "--port", port]),
    baleen(["bench", "--url", url, "--api-key", "k2", ...load]),
    baleen(["bench", "--null-engine", "--rate", "500", ...load]),
  ]);
  assert.deepEqual([taken.status, taken.stdout], [1, ""]);
  assert.match(taken.stderr, /^baleen: Port \d+ on 127\.0\.0\.1 is taken: .* --port.*\.\n$/);
  for (const { status, stdout, stderr } of [remote, open]) {
    assert.deepEqual([status, stderr], [0, ""]);
    const figures = JSON.parse(stdout) as Record<string, number>;
    assert.deepEqual(
      [figures.completed, figures.failed, figures.total_output_tokens, figures.total_input_tokens],
      [6, 0, 30, 384],
    );
    for (const key of ["median_ttft_ms", "p99_itl_ms", "mean_tpot_ms", "output_throughput"]) {
      assert.ok(figures[key] > 0, key);
    }
  }
  child.kill("SIGINT");
  assert.equal(await exit, 0);
});
