/** @file The planner's page: the day, the layers of both phases, the money, the errors, the choices. */
import type { ComponentChildren, JSX } from "preact";
import type { PlanDocument } from "../../../planner/index.ts";
import icon from "../icon.svg";
import { usePlan } from "./data.ts";
import { DayCharts } from "./day-charts.tsx";
import { ErrorBars } from "./error-bars.tsx";
import { Front } from "./front.tsx";
import { Lanes } from "./lanes.tsx";
import { Money } from "./money.tsx";

/** The whole page. */
export function App(): JSX.Element {
  const plan = usePlan();
  return (
    <>
      <header>
        <div class="brand">
          <img src={icon} alt="" width="36" height="36" />
          <div>
            <h1>
              baleen<span class="model"> plan</span>
            </h1>
            <p>
              {typeof plan === "object"
                ? `${plan.model} on ${plan.hardware}`
                : "A deployment planned"}
            </p>
          </div>
        </div>
        <nav aria-label="Data">
          <a href="./plan.json">JSON</a>
        </nav>
      </header>
      {plan === undefined && <p role="status">Reading the plan…</p>}
      {typeof plan === "string" && (
        <p class="notice" role="alert">
          {plan}
        </p>
      )}
      {typeof plan === "object" && <Report plan={plan} />}
    </>
  );
}

function Report({ plan }: { plan: PlanDocument }): JSX.Element {
  return (
    <main class="plan">
      <Money plan={plan} />
      <DayCharts plan={plan} />
      <Section
        title="One layer of each phase"
        hint="two micro-batches, as in the article's figures"
      >
        {plan.phases.map((phase) => (
          <Lanes key={phase.name} phase={phase} />
        ))}
      </Section>
      <ErrorBars calibration={plan.calibration} />
      <Front search={plan.search} />
    </main>
  );
}

/** A card with a title. */
export function Section(props: {
  title: string;
  hint?: string;
  children: ComponentChildren;
}): JSX.Element {
  return (
    <section class="card section">
      <h2>
        {props.title} {props.hint && <small>{props.hint}</small>}
      </h2>
      {props.children}
    </section>
  );
}
