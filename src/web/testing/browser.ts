/** @file A real browser for tests of the pages: an installed Chromium, headless. */
import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import { type Browser, chromium, type Locator, type Page } from "playwright-core";

const browserPath = findBrowser();

/** Why tests that need a browser are skipped; false where there is one. */
export const skip: string | false = browserPath
  ? false
  : "no chromium on PATH: the page was not tested";

/** No sandbox (tests run as root), no graphics card, nothing that calls home. */
const browserFlags = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

function findBrowser(): string | undefined {
  const folders = ["/usr/bin", ...(process.env.PATH ?? "").split(":")];
  const paths = folders.flatMap((folder) =>
    ["chromium", "chromium-browser", "google-chrome"].map((name) => join(folder, name)),
  );
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** A new browser; undefined where there is none. */
export async function launchBrowser(): Promise<Browser | undefined> {
  if (!browserPath) return undefined;
  return chromium.launch({ executablePath: browserPath, args: browserFlags });
}

/** A page at `url`; what it complains of goes to `complaints`. */
export async function openPage(
  browser: Browser,
  url: string,
  complaints: string[] = [],
  options: { width?: number; height?: number; colorScheme?: "dark" } = {},
): Promise<Page> {
  const { width = 1280, height = 900, colorScheme = "light" } = options;
  const page = await browser.newPage({ viewport: { width, height }, colorScheme });
  page.setDefaultTimeout(15_000);
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  await page.goto(url);
  return page;
}

/** The text of what `locator` finds; empty where it has none. */
export async function textOf(locator: Locator): Promise<string> {
  return (await locator.textContent()) ?? "";
}

/** How many distinct colours a canvas shows. */
export function coloursOf(page: Page, selector: string): Promise<number> {
  return page.evaluate(`(() => {
    const canvas = document.querySelector(${JSON.stringify(selector)});
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
  })()`);
}
