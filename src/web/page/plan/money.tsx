/** @file The day's sums: nodes, money, speeds; the article's beside them where the day is the article's. */
import type { JSX } from "preact";
import type { PlanDocument } from "../../../planner/index.ts";
import { short } from "../format.ts";

/** A row of figures. */
export function Money({ plan }: { plan: PlanDocument }): JSX.Element {
  const { totals } = plan.day;
  const { article, published, isArticle } = plan;
  const beside = (text: string): string => (isArticle ? `article ${text}` : "");
  return (
    <dl class="figures">
      <Figure name="Node-hours" hint={beside(whole(published.nodeHours))}>
        {whole(totals.nodeHours)}
      </Figure>
      <Figure name="Cost a day" hint={beside(dollars(published.costDollars))}>
        {dollars(totals.costDollars)}
      </Figure>
      <Figure name="Revenue a day" hint={beside(dollars(published.revenueDollars))}>
        {dollars(totals.revenueDollars)}
      </Figure>
      <Figure name="Margin" hint={beside(`${Math.round(article.marginPercent)} %`)}>
        {`${Math.round(totals.marginPercent)} %`}
      </Figure>
      <Figure name="Input a prefill node" hint={besides(beside, published.prefillPerNode)}>
        {`${short(totals.prefillPerNode)}/s`}
      </Figure>
      <Figure name="Output a decode node" hint={besides(beside, published.decodePerNode)}>
        {`${short(totals.decodePerNode)}/s`}
      </Figure>
      <Figure name="One user sees" hint={beside("20 to 22")}>
        {`${(1e3 / totals.tpotMs).toFixed(1)} tok/s`}
      </Figure>
    </dl>
  );
}

function besides(beside: (text: string) => string, value: number): string {
  return beside(`${short(value)}/s`);
}

function Figure(props: { name: string; hint: string; children: string }): JSX.Element {
  return (
    <div class="figure">
      <dt>{props.name}</dt>
      <dd>
        <b>{props.children}</b>
        <small>{props.hint}</small>
      </dd>
    </div>
  );
}

function whole(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

function dollars(value: number): string {
  return `$${whole(value)}`;
}
