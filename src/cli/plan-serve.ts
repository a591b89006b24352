/** @file `baleen plan serve`: the planner's page, on this machine only unless told otherwise. */
import { exitOnSignals, startPageServer } from "../inference/index.ts";
import { type DocumentRequest, planDocument } from "../planner/index.ts";
import { pageFolder } from "../web/index.ts";

/** Computes the page's document, serves it, and says where. Ends on a signal. */
export async function servePlan(
  request: DocumentRequest,
  host: string,
  port: number,
): Promise<void> {
  const server = await startPageServer({
    pageDir: pageFolder,
    index: "/plan.html",
    documents: { "/plan.json": JSON.stringify(planDocument(request)) },
    host,
    port,
  });
  console.log(`The plan is at ${server.url} (data: ${server.url}/plan.json). Ctrl-C ends it.`);
  exitOnSignals(
    () => server.close(),
    (line) => console.error(line),
  );
}
