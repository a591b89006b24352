/** @file The page: what it carries, and how it looks and moves in a real browser. */
import assert from "node:assert/strict";
import { accessSync, constants, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { chromium, type Page } from "playwright-core";
import { Random } from "../base/index.ts";
import { type DeviceProfile, profilePage, profileTrace, readTrace } from "./index.ts";
import { madeEvents, madeOperations } from "./testing.ts";

const browserPath = [
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
});
const skip = browserPath ? false : "no chromium: the page was not looked at";

async function made(count: number, seed: number): Promise<DeviceProfile> {
  const operations = madeOperations(new Random(seed), count, count * 20);
  const phases = ["attn(F)", "mlp(B)", "mlp(W)"].map((name, i) => ({
    ph: "X",
    cat: "user_annotation",
    name,
    pid: 1166,
    tid: 1166,
    ts: (i * count * 20) / 3,
    dur: (count * 20) / 3,
  }));
  const json = JSON.stringify([...madeEvents(operations), ...phases]);
  return profileTrace(await readTrace([new TextEncoder().encode(json)]))[0];
}

test("names of a trace can't break out of the page", async () => {
  const json = JSON.stringify([
    { ph: "X", cat: "kernel", name: "</script><img src=x>", pid: 0, tid: 7, ts: 0, dur: 5 },
  ]);
  const [profile] = profileTrace(await readTrace([new TextEncoder().encode(json)]));
  const page = profilePage([{ title: "<b>", profile }]);
  assert.ok(!page.includes("</script><img") && !page.includes('"<b>'));
  assert.ok(!/https?:/.test(page.replace(/"[^"]*"/g, "")), "nothing is fetched");
});

test("a page stays small, however many operations there are", async () => {
  const page = profilePage([{ title: "big", profile: await made(50_000, 3) }]);
  assert.ok(page.length < 3e6, `got ${page.length} characters`);
  assert.match(page, /"grain":[1-9]/);
});

/** How many distinct colours a strip of the canvas has. */
function coloursAt(page: Page, y: number, height: number): Promise<number> {
  return page.evaluate(`(() => {
    const canvas = document.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(120, ${y}, canvas.width - 121, ${height});
    return new Set(new Uint32Array(data.buffer)).size;
  })()`);
}

test("the lanes are drawn, zoom, move and tell what the pointer is on", { skip }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "baleen-profile-"));
  const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"];
  const browser = await chromium.launch({ executablePath: browserPath ?? "", args: flags });
  try {
    const file = join(folder, "page.html");
    writeFileSync(file, profilePage([{ title: "made", profile: await made(400, 1) }], "made.json"));
    const page = await browser.newPage({ viewport: { width: 1000, height: 900 } });
    const complaints: string[] = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") complaints.push(message.text());
    });
    await page.goto(String(pathToFileURL(file)));
    assert.match((await page.textContent("h1")) ?? "", /^baleen profile ?made\.json$/);
    assert.match((await page.textContent(".tile.bad")) ?? "", /^[\d.]+ .?s?exposed/);
    const canvas = page.locator("canvas");
    const label = (await canvas.getAttribute("aria-label")) ?? "";
    assert.equal(
      label,
      "made: Host, Computation, Communication, Exposed, Stream 7, Stream 20, Stream 101",
    );
    assert.ok((await coloursAt(page, 50, 38)) >= 3, "computation has the colours of its phases");
    assert.ok((await coloursAt(page, 138, 6)) >= 2, "exposed communication is marked");
    const view = (): Promise<number[]> =>
      page.evaluate(`(() => {
        const { from, to } = document.querySelector("canvas").dataset;
        return [Number(from), Number(to)];
      })()`);
    const [from, to] = await view();
    assert.ok(from === 0 && to > 7000);
    await canvas.hover({ position: { x: 500, y: 60 } });
    await page.mouse.wheel(0, -600);
    await page.waitForFunction(`document.querySelector("canvas").dataset.from > 0`);
    const [zoomedFrom, zoomedTo] = await view();
    assert.ok(zoomedFrom > from && zoomedTo < to);
    await canvas.focus();
    await page.keyboard.press("ArrowRight");
    assert.ok((await view())[0] > zoomedFrom);
    await page.keyboard.press("0");
    assert.deepEqual(await view(), [from, to]);
    let told = "";
    for (let x = 130; x < 900 && !told.includes("attn(F)"); x += 4) {
      await page.mouse.move(24 + x, 0);
      await canvas.hover({ position: { x, y: 60 } });
      told = (await page.textContent(".tip")) ?? "";
    }
    assert.match(told, /from .* · attn\(F\), layer 0 · (fp8 GEMM|torch native) · void/);
    assert.deepEqual(complaints, []);
    await page.setViewportSize({ width: 360, height: 740 });
    const width = await page.evaluate<number>("document.documentElement.scrollWidth");
    assert.ok(width <= 360, `got ${width} pixels on a phone`);
  } finally {
    await browser.close();
    rmSync(folder, { recursive: true });
  }
});
