/** @file A bar that shows how full the cache is. */
import type { JSX } from "preact";
import { percent } from "./format.ts";

/** Used and cached blocks against the total. */
export function Meter(props: {
  label: string;
  total: number;
  used: number;
  cached: number;
}): JSX.Element {
  const share = (blocks: number): string => `${(100 * blocks) / Math.max(1, props.total)}%`;
  const filled = (props.used + props.cached) / Math.max(1, props.total);
  return (
    <div class="meter">
      <div class="bar" aria-hidden="true">
        <i class="used" style={{ width: share(props.used) }} />
        <i class="cached" style={{ width: share(props.cached) }} />
      </div>
      <small>
        {percent(filled)} {props.label}
      </small>
    </div>
  );
}
