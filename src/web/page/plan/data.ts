/** @file The planner's document, made by `baleen plan serve`. */
import { useEffect, useState } from "preact/hooks";
import type { PlanDocument } from "../../../planner/index.ts";

/** The document; undefined until it is here, a sentence where it does not come. */
export function usePlan(): PlanDocument | string | undefined {
  const [plan, setPlan] = useState<PlanDocument | string>();
  useEffect(() => {
    load().then(setPlan, (error: unknown) => setPlan(`The plan can't be read (${String(error)}).`));
  }, []);
  return plan;
}

async function load(): Promise<PlanDocument | string> {
  const response = await fetch("./plan.json");
  const type = response.headers.get("content-type") ?? "";
  if (response.ok && type.includes("json")) return response.json();
  return "This server has no plan: start one with `baleen plan serve`.";
}
