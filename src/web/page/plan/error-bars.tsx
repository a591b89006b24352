/** @file Predicted beside published: one bar a point from 0, fitted ones hollow, the bound shaded. */
import type { JSX } from "preact";
import type { Calibration } from "../../../planner/index.ts";
import { Section } from "./app.tsx";

/** Errors up to this are drawn. */
const most = 0.12;
/** What the held-out rows should stay within. */
const bound = 0.08;

/** All published points. */
export function ErrorBars({ calibration }: { calibration: Calibration }): JSX.Element {
  const place = (error: number) => `${(0.5 + Math.max(-1, Math.min(1, error / most)) / 2) * 100}%`;
  const size = (error: number) => `${(Math.abs(error) / most / 2) * 100}%`;
  return (
    <Section
      title="How far to trust it"
      hint="predicted against published, tokens per second and node"
    >
      <table class="points">
        <thead>
          <tr>
            <th scope="col">point</th>
            <th scope="col">published</th>
            <th scope="col">predicted</th>
            <th scope="col" class="wide">
              error, shaded within 8 %
            </th>
            <th scope="col">role</th>
          </tr>
        </thead>
        <tbody>
          {calibration.points.map(({ point, predicted, error, role }) => (
            <tr key={point.name} class={role === "fitted" ? "fitted" : "held-out"}>
              <th scope="row" title={point.note ?? point.source}>
                {point.name}
              </th>
              <td>{whole(point.perNode)}</td>
              <td>{whole(predicted)}</td>
              <td class="wide">
                <div class="track">
                  <i
                    class="bound"
                    style={{ left: place(-bound), width: `${(bound / most) * 100}%` }}
                  />
                  <i class="zero" />
                  <i
                    class="error"
                    style={{ left: error < 0 ? place(error) : "50%", width: size(error) }}
                  />
                  <i class="dot" style={{ left: place(error) }} />
                </div>
                <span>{signed(error)}</span>
              </td>
              <td>{role}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <p class="readout">
        Fitted: efficiency of prefill {calibration.prefillEfficiency.toFixed(3)}, of decode{" "}
        {calibration.decodeEfficiency.toFixed(3)}, skew of prompts' experts{" "}
        {calibration.prefillSkew.toFixed(3)}. Worst row held out:{" "}
        {(calibration.worstHeldOut * 100).toFixed(1)} % .
      </p>
    </Section>
  );
}

function whole(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

function signed(error: number): string {
  const percent = (Math.abs(error) * 100).toFixed(1);
  return percent === "0.0" ? "0.0 %" : `${error < 0 ? "−" : "+"}${percent} %`;
}
