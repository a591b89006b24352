/** @file `baleen plan` as users run it: child processes and real files. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const main = fileURLToPath(new URL("./main.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "baleen-plan-"));
after(() => rmSync(folder, { recursive: true }));

function plan(...argv: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, "plan", ...argv], {
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

function file(name: string, content: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

const lite = {
  model_type: "deepseek_v2",
  vocab_size: 102400,
  hidden_size: 2048,
  intermediate_size: 10944,
  moe_intermediate_size: 1408,
  num_hidden_layers: 27,
  num_attention_heads: 16,
  q_lora_rank: null,
  n_routed_experts: 64,
  n_shared_experts: 2,
  num_experts_per_tok: 6,
  first_k_dense_replace: 1,
};

test("plan day6 prints the article's figures and every point's error and role", () => {
  const { status, stdout } = plan("day6");
  assert.equal(status, 0);
  for (const wanted of [
    /5,442: mean 226\.75 nodes, peak 278/,
    /cost +\$87,072/,
    /published \$562,027, inside/,
    /margin +545\.5 %/,
    /73\.7k input tokens/,
    /14\.8k output tokens/,
  ]) {
    assert.match(stdout, wanted);
  }
  assert.equal(stdout.match(/ fitted {2}/g)?.length, 3);
  assert.equal(stdout.match(/held out {2}/g)?.length, 6);
  const data = JSON.parse(plan("day6", "--json").stdout);
  assert.equal(data.article.costDollars, 87072);
  assert.equal(data.calibration.points.length, 9);
});

test("plan search reads a model's config and a profile of one's own", () => {
  const config = file("config.json", lite);
  const hw = file("hw.json", { base: "h800", name: "big", hbmGB: 141 });
  const shared = ["--nodes", "4", "--sla-tpot", "50ms", "--placement", "exact", "--json"];
  const found = [
    plan("search", "--config", config, "--hw", "h800", ...shared),
    plan("search", "--config", folder, "--hw", hw, ...shared),
  ].map(({ stdout }) => JSON.parse(stdout));
  assert.ok(found[0].best.tpotMs <= 50);
  // More memory never hurts.
  assert.ok(found[1].best.outputPerS >= found[0].best.outputPerS);
  assert.match(
    plan("search", "--nodes", "20", "--placement", "exact").stdout,
    /Why:\n {2}\d+ of 20 nodes/,
  );
});

test("plan estimate draws both phases, and plan hardware lists what there is", () => {
  const { stdout } = plan("estimate");
  assert.match(stdout, /Prefill, EP32 with 9 experts a GPU/);
  assert.match(stdout, /Decode, EP144 with 2 experts a GPU/);
  assert.equal(stdout.match(/^ {4}compute +[A-Za-z·]{88}$/gm)?.length, 2);
  assert.equal(stdout.match(/bottleneck: /g)?.length, 2);
  const kernels = plan("kernels").stdout;
  assert.match(kernels, /dense 7168 x 16384 +1358 +2636/);
  assert.match(kernels, /kernelGapUs +3 {2}choice: /);
  assert.deepEqual(Object.keys(JSON.parse(plan("hardware", "--json").stdout)), [
    "h800",
    "h100",
    "h200",
    "h20",
    "b200",
    "gb200",
  ]);
});

test("plan day prints the curve, and the article's sums beside its own", () => {
  const { status, stdout } = plan("day", "--seed", "3");
  assert.equal(status, 0);
  assert.match(stdout, /^nodes {2}[▁▂▃▄▅▆▇█]{48}/);
  assert.match(stdout, /^cost, \$ +8\d,\d{3} +87,072 +[+-]\d\.\d %$/m);
  assert.match(stdout, /^output\/s a decode node +1\d,\d{3} +14,800/m);
});

test("plan serve answers on this machine with page and data, and ends on a signal", async () => {
  const child = spawn(process.execPath, [main, "plan", "serve", "--port", "0", "--nodes", "2"], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  try {
    const [line] = await once(child.stdout!.setEncoding("utf8"), "data");
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(line as string)?.[0];
    assert.ok(url, line as string);
    const [page, data, none, post] = await Promise.all([
      fetch(url),
      fetch(`${url}/plan.json`),
      fetch(`${url}/none`),
      fetch(url, { method: "POST" }),
    ]);
    assert.match(await page.text(), /<title>baleen plan<\/title>/);
    assert.match(page.headers.get("content-security-policy") ?? "", /default-src 'self'/);
    const document = (await data.json()) as Record<string, unknown>;
    assert.equal(document.isArticle, true);
    assert.match(JSON.stringify(document.search), /don't fit on 2 nodes/);
    assert.deepEqual([none.status, post.status], [404, 405]);
    const port = new URL(url).port;
    assert.match(
      plan("serve", "--port", port).stderr,
      /^baleen: Port \d+ on 127\.0\.0\.1 is taken/,
    );
  } finally {
    child.kill("SIGTERM");
    const [status] = await once(child, "close");
    assert.equal(status, 0);
  }
});

test("what can't be planned gets one sentence that names the field", () => {
  const cases: [string[], number, RegExp][] = [
    [["day7"], 2, /^baleen: plan: give one of day6/],
    [["search", "--hw", "h80"], 1, /"h80" has no profile: did you mean h800\?/],
    [["search", "--nodes", "NaN"], 2, /--nodes: got "NaN", wanted a whole number/],
    [["search", "--sla-tpot", "fast"], 2, /--sla-tpot: got "fast", wanted a time such as 50ms/],
    [
      ["search", "--nodes", "8", "--sla-tpot", "1ms"],
      1,
      /sla-tpot is 1 ms, but the fastest decode unit/,
    ],
    [["search", "--config", join(folder, "none.json")], 1, /none\.json can't be read \(ENOENT\)/],
    [
      ["search", "--config", file("short.json", { ...lite, hidden_size: undefined })],
      1,
      /short\.json: hidden_size is missing/,
    ],
    [["search", "--config", file("broken.json", "{")], 1, /broken\.json is not valid JSON/],
    [
      ["search", "--hw", file("bad.json", { base: "h800", hbmGBs: "fast" })],
      1,
      /bad\.json\.hbmGBs is "fast": give a number of at least 1/,
    ],
    [["day", "--decode-nodes", "1"], 1, /^baleen: decodeNodes is 1: beside [\d.]+ GB of weights/],
    [["estimate", "--batch", "5000"], 1, /sequences is 5000 a GPU, but [\d.]+ GB beside/],
  ];
  for (const [argv, wanted, message] of cases) {
    const { status, stdout, stderr } = plan(...argv);
    assert.equal(status, wanted, argv.join(" "));
    assert.equal(stdout, "");
    assert.match(stderr, message);
    assert.equal(stderr.trimEnd().split("\n").length, 1, stderr);
  }
});
