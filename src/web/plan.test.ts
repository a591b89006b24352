/** @file The planner's page in a real browser, over a real document. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { type PageServer, startPageServer } from "../inference/index.ts";
import {
  architectureOf,
  calibration,
  deepSeekV3,
  estimateDecode,
  estimateReport,
  hardware,
  type PlanDocument,
  planDocument,
} from "../planner/index.ts";
import { pageFolder } from "./index.ts";
import { coloursOf, launchBrowser, openPage, skip, textOf } from "./testing/browser.ts";

/** The article's deployment, its day in few windows; `nodes` for the search. */
function makeDocument(nodes: number): PlanDocument {
  const fitted = calibration();
  const arch = architectureOf(deepSeekV3);
  const hw = hardware.h800;
  const workload = { promptTokens: 4096, outputTokens: 1024, hitRate: 0.5 };
  return planDocument({
    estimate: estimateReport({
      arch,
      hw,
      fitted,
      prefillNodes: 4,
      decodeNodes: 18,
      workload,
      tokensPerGpu: 16384,
      batch: 88,
    }),
    day: { arch, hw, fitted, windows: 24, sampleS: 3, decodeRanks: 2 },
    isArticle: true,
    search: { ...fitted, arch, hw, nodes, workload, placement: "exact", tpotMs: 50 },
  });
}

let browser: Browser | undefined;
let server: PageServer;
let plan: PlanDocument;
let page: Page;
const complaints: string[] = [];

function serve(document: PlanDocument | undefined): Promise<PageServer> {
  const documents = document ? { "/plan.json": JSON.stringify(document) } : {};
  return startPageServer({ pageDir: pageFolder, index: "/plan.html", documents });
}

before(async () => {
  browser = await launchBrowser();
  if (!browser) return;
  plan = makeDocument(40);
  server = await serve(plan);
  page = await openPage(browser, server.url, complaints);
});
after(async () => {
  await browser?.close();
  await server?.close();
});

test("the plan's page: the day's sums stand beside the article's", { skip }, async () => {
  await page.getByText("Node-hours").waitFor();
  const figures = await textOf(page.locator("dl.figures"));
  const { costDollars, nodeHours } = plan.day.totals;
  for (const wanted of [nodeHours, costDollars]) {
    assert.ok(figures.includes(Math.round(wanted).toLocaleString("en-US")), String(wanted));
  }
  assert.match(figures, /article 5,442.*article \$87,072.*article \$562,027/);
  const charts = page.locator(".charts .plot");
  assert.equal(await charts.count(), 6);
  await page.getByRole("img", { name: /^Nodes in use: simulated at most \d+/ }).waitFor();
  for (const name of ["Nodes in use", "Dollars an hour", "Balancedness"]) {
    const colours = await coloursOf(page, `.plot[aria-label^="${name}"] canvas`);
    assert.ok(colours > 10, `${name}: got ${colours} colours, wanted a drawing`);
  }
  await charts.first().hover();
  await page
    .getByText(/^\d\d:\d\d$/)
    .first()
    .waitFor();
});

test("the plan's page: both phases' lanes have every operation, in its place", {
  skip,
}, async () => {
  assert.equal(await page.locator("svg.lanes").count(), 2);
  for (const [index, phase] of plan.phases.entries()) {
    const lanes = page.locator("svg.lanes").nth(index);
    assert.match((await lanes.getAttribute("aria-label")) ?? "", /a layer takes [\d.]+ (ms|µs)/);
    // Two layers are shown, and what reaches into them from before.
    const { operations } = phase.layer;
    assert.equal(await lanes.locator(".block").count(), 3 * operations.length);
    const blocks = lanes.locator(".block rect");
    const scale = (960 - 124) / (2 * phase.layer.periodUs);
    for (const [i, op] of operations.entries()) {
      const block = blocks.nth(operations.length + i);
      const x = Number(await block.getAttribute("x"));
      assert.ok(Math.abs(x - 0.5 - 124 - op.startUs * scale) < 0.01, op.name);
    }
  }
  const text = await textOf(page.locator("main"));
  for (const phase of plan.phases) assert.ok(text.includes(phase.bottleneck));
});

test("the plan's page: another load is estimated in the browser, as the planner does", {
  skip,
}, async () => {
  const [, phase] = plan.phases;
  const decode = page.locator(".phase").nth(1);
  const before = await textOf(decode.locator(".readout").first());
  const slider = decode.getByLabel("Sequences a GPU");
  await slider.fill("120");
  const wanted = estimateDecode(phase.deployment, phase.workload, 120);
  const after = decode.locator(".readout").first();
  assert.notEqual(await textOf(after), before);
  assert.match(await textOf(after), new RegExp(`TPOT ${wanted.tpotMs.toFixed(1)} ms`));
  await decode.getByLabel("Tokens of a prompt").fill("32768");
  await page.getByText(/^sequences is 120 a GPU, but [\d.]+ GB beside/).waitFor();
  await decode.getByLabel("Tokens of a prompt").fill(String(phase.workload.promptTokens));
  await slider.fill(String(phase.load));
  assert.equal(await textOf(after), before);
});

test("the plan's page: an error bar for each point, the fitted ones marked", { skip }, async () => {
  assert.equal(await page.locator(".points tbody tr").count(), plan.calibration.points.length);
  assert.equal(await page.locator(".points tr.fitted").count(), 3);
  const row = page.locator(".points tr.held-out").first();
  const { error } = plan.calibration.points.find(({ role }) => role === "held out")!;
  assert.ok((await textOf(row)).includes(`${(error * 100).toFixed(1)} %`));
  const [dot, zero] = await Promise.all(
    [".dot", ".zero"].map((part) => row.locator(part).boundingBox()),
  );
  assert.ok(Math.sign(dot!.x + dot!.width / 2 - zero!.x) === Math.sign(error));
});

test("the plan's page: the front, and why the best is best", { skip }, async () => {
  assert.ok("front" in plan.search);
  assert.equal(await page.locator(".scatter circle").count(), plan.search.front.length);
  assert.equal(await page.locator(".why li").count(), plan.search.why.length);
});

test("the plan's page: it fits a phone, in the dark, and complains of nothing", {
  skip,
}, async () => {
  const size = { width: 360, height: 740, colorScheme: "dark" } as const;
  const phone = await openPage(browser!, server.url, complaints, size);
  await phone.getByText("How far to trust it").waitFor();
  const width = await phone.evaluate<number>("document.documentElement.scrollWidth");
  assert.ok(width <= 360, `got a page of ${width} pixels, wanted at most 360`);
  const ground = await phone.evaluate<string>("getComputedStyle(document.body).backgroundColor");
  assert.equal(ground, "rgb(13, 21, 26)");
  await phone.close();
  assert.deepEqual(complaints, []);
});

test("the plan's page: what can't be planned, and no plan at all, are said", { skip }, async () => {
  const refused: PlanDocument = { ...plan, search: { refusal: "nodes is 2: give more." } };
  for (const [document, words] of [
    [refused, "nodes is 2: give more."],
    [undefined, "This server has no plan"],
  ] as const) {
    const other = await serve(document);
    const tab = await openPage(browser!, other.url);
    await tab.getByText(words).waitFor();
    await tab.close();
    await other.close();
  }
});
