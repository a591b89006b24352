/** @file The page in a real browser, on the real server: with the shipped model, and with none. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { Browser, Page } from "playwright-core";
import { type RunningServer, type Served, startEngine, startServer } from "../inference/index.ts";
import { Tokenizer } from "../model/index.ts";
import { pageFolder } from "./index.ts";
import { coloursOf, launchBrowser, openPage, skip, textOf } from "./testing/browser.ts";

const modelDir = fileURLToPath(new URL("../../models/austen-6m", import.meta.url));
/** Serves the model that ships, or a null model. */
async function serve(
  model: "austen" | "null",
  options: { port?: number; apiKeys?: string[] } = {},
): Promise<{ served: Served; server: RunningServer }> {
  const served: Served =
    model === "austen"
      ? {
          engine: await startEngine({ modelDir, blocks: 64 }),
          tokenizer: Tokenizer.fromDirectory(modelDir),
        }
      : {
          engine: await startEngine({ nullModel: {}, blocks: 64 }),
          tokenizer: {
            encode: (text) => Array.from(Buffer.from(text)),
            tokenBytes: (id) => Buffer.of(id),
          },
        };
  return { served, server: await startServer(served, { ...options, pageDir: pageFolder }) };
}

/** Waits until `condition` holds. */
async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const giveUp = performance.now() + 15_000;
  while (!(await condition())) {
    assert.ok(performance.now() < giveUp, `waited too long until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("the page is built", () => {
  assert.ok(existsSync(join(pageFolder, "index.html")), `no page in ${pageFolder}`);
});

let browser: Browser;
let served: Served;
let server: RunningServer;
let page: Page;
const complaints: string[] = [];

before(async () => {
  const launched = await launchBrowser();
  if (!launched) return;
  browser = launched;
  ({ served, server } = await serve("austen"));
  page = await openPage(browser, server.url, complaints);
});
after(async () => {
  await browser?.close();
  await server?.drain(0);
});

test("the page: it says what is served", { skip }, async () => {
  await page.getByText("Live").waitFor();
  assert.equal(await textOf(page.locator("h1")), "baleen austen-6m");
  await page.getByText(served.engine.info.description).waitFor();
  for (const path of ["openapi.json", "metrics"]) {
    const link = page.locator(`nav a[href$="${path}"]`);
    assert.equal((await fetch(new URL(`./${path}`, server.url))).status, 200);
    assert.equal(await link.count(), 1);
  }
});

test("the page: text streams in, the same as the API gives", { skip }, async () => {
  const prompt = "She had never seen";
  await page.getByLabel("Begin a text").fill(prompt);
  await page.getByLabel("Most tokens").fill("64");
  await page.getByLabel("Seed").fill("7");
  await page.evaluate(`
    globalThis.lengths = new Set();
    new MutationObserver(() => {
      const prose = document.querySelector(".prose");
      if (prose) lengths.add(prose.textContent.length);
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  `);
  await page.getByLabel("Begin a text").press("Control+Enter");
  await page.getByText("Done after 64 tokens").waitFor();
  const steps = await page.evaluate<number>("lengths.size");
  assert.ok(steps >= 3, `got ${steps} drawings of the text, wanted several`);

  const response = await fetch(`${server.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt, max_tokens: 64, seed: 7, temperature: 0.8, top_p: 0.95 }),
  });
  const { choices } = (await response.json()) as { choices: [{ text: string }] };
  assert.equal(await textOf(page.locator(".prose")), prompt + choices[0].text);
  const words = page.locator(".word");
  assert.match((await words.first().getAttribute("title")) ?? "", /^probability [\d.e-]+$/);
  assert.match(await textOf(page.locator(".passage footer")), /first after [\d.]+ m?s/);
  assert.match(await textOf(page.locator(".figure.mine").first()), /[\d.]+ m?s/);
});

test("the page: charts and heat map draw what the engine reports", { skip }, async () => {
  await page.getByLabel("Most tokens").fill("400");
  await page.getByRole("button", { name: "Write" }).click();
  const speed = page.getByRole("img", { name: /^Tokens per second: generated [1-9]/ });
  await speed.waitFor();
  await page.getByText("Done after 400 tokens").waitFor();
  const rest = await page.evaluate<number>(`(() => {
    const prose = document.querySelector(".prose");
    return prose.scrollHeight - prose.clientHeight - prose.scrollTop;
  })()`);
  assert.ok(rest < 2, `the passage is ${rest} pixels short of its end`);
  await page.getByRole("img", { name: /^KV blocks: cached [1-9]\d*, used \d+$/ }).waitFor();
  await page.getByRole("img", { name: /^Sequences: running \d+, waiting \d+$/ }).waitFor();
  assert.equal(await page.locator(".plot canvas").count(), 3);
  for (const chart of ["Tokens per second", "Sequences", "KV blocks"]) {
    const colours = await coloursOf(page, `.plot[aria-label^="${chart}"] canvas`);
    assert.ok(colours > 10, `${chart}: got ${colours} colours, wanted a drawing`);
  }
  const colours = await coloursOf(page, ".experts canvas");
  assert.ok(colours > 20, `expert map: got ${colours} colours, wanted shades`);
  const { layers, experts } = served.engine.stats().expertLoad;
  const map = page.locator(".experts canvas");
  assert.match((await map.getAttribute("aria-label")) ?? "", /3 layers of 8 experts/);
  assert.deepEqual([layers, experts], [3, 8]);

  await map.hover({ position: { x: 60, y: 15 } });
  const readout = page.locator(".readout");
  await until("the pointer is told of", async () =>
    /^MoE layer 0, expert 0: [\d.k]+ tokens/.test(await textOf(readout)),
  );
  await page.mouse.move(0, 0);
  await map.focus();
  for (const key of ["ArrowDown", "ArrowRight", "ArrowRight"]) await page.keyboard.press(key);
  assert.match(await textOf(readout), /^MoE layer 1, expert 2: .* of the layer's/);
});

test("the page: stop ends the answer, here and in the engine", { skip }, async () => {
  const { finished: before } = served.engine.stats();
  await page.getByLabel("Most tokens").fill("1000");
  await page.getByRole("button", { name: "Write" }).click();
  await page.getByText("Writing…").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByText(/^Stopped after \d+ tokens?/).waitFor();
  await until("the engine has stopped", async () => {
    const { finished, running } = served.engine.stats();
    return finished.cancelled === before.cancelled + 1 && running === 0;
  });
  // The same click must not have begun another answer.
  await page.getByRole("button", { name: "Write" }).waitFor();
  assert.equal(served.engine.stats().finished.length, before.length);
});

test("the page: a refusal is shown in the server's words", { skip }, async () => {
  await page.getByLabel("Most tokens").fill("4");
  await page.getByLabel("Begin a text").fill("word ".repeat(3000));
  // What the browser logs of the refused request is no fault of the page's.
  const known = complaints.length;
  await page.getByRole("button", { name: "Write" }).click();
  const alert = page.getByRole("alert");
  await alert.waitFor();
  assert.match(await textOf(alert), /prompt/);
  const refused = complaints.splice(known);
  assert.ok(
    refused.every((line) => line.includes("status of 400")),
    refused.join("\n"),
  );
});

test("the page: it fits a phone, in the dark", { skip }, async () => {
  const phone = await openPage(browser, server.url, complaints, {
    width: 360,
    height: 740,
    colorScheme: "dark",
  });
  await phone.getByText("Live").waitFor();
  const width = await phone.evaluate<number>("document.documentElement.scrollWidth");
  assert.ok(width <= 360, `got a page of ${width} pixels, wanted at most 360`);
  const ground = await phone.evaluate<string>("getComputedStyle(document.body).backgroundColor");
  assert.equal(ground, "rgb(13, 21, 26)");
  await phone.close();
});

test("the page: nothing went wrong that only the browser's console tells", { skip }, () => {
  assert.deepEqual(complaints, []);
});

test("a server that wants a key: the page asks the reader, and uses it", { skip }, async () => {
  const { server } = await serve("null", { apiKeys: ["sesame"] });
  const page = await openPage(browser, server.url);
  try {
    const field = page.getByLabel("This server asks for an API key");
    await field.fill("guess");
    await field.press("Enter");
    const again = page.getByLabel("The server does not know this API key");
    await again.fill("sesame");
    await again.press("Enter");
    await page.getByText("Live").waitFor();
    await page.getByLabel("Most tokens").fill("8");
    await page.getByRole("button", { name: "Write" }).click();
    await page.getByText("Done after 8 tokens").waitFor();
  } finally {
    await page.close();
    await server.drain(0);
  }
});

test("a server that stops and returns: the page says so, and goes on", { skip }, async () => {
  const first = await serve("null");
  const page = await openPage(browser, first.server.url);
  await page.getByText("Live").waitFor();
  await first.server.drain(0);
  await page.getByText("Reconnecting").waitFor();
  const { server } = await serve("null", { port: first.server.port });
  try {
    await page.getByText("Live").waitFor();
    await page.getByRole("button", { name: "Write" }).click();
    await page.getByText(/^Done after/).waitFor();
  } finally {
    await page.close();
    await server.drain(0);
  }
});
