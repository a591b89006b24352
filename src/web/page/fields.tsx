/** @file The form's two kinds of number fields. */
import type { JSX } from "preact";
import { useId } from "preact/hooks";

/** A slider from 0 to `max` in steps of 0.05, with its value beside the label. */
export function Slider(props: {
  label: string;
  value: number;
  max: number;
  onChange: (value: number) => void;
}): JSX.Element {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      <output for={id}>{props.value.toFixed(2)}</output>
      <input
        id={id}
        type="range"
        min={0}
        max={props.max}
        step={0.05}
        value={props.value}
        style={{ "--filled": `${(props.value / props.max) * 100}%` }}
        onInput={(event) => props.onChange(event.currentTarget.valueAsNumber)}
      />
    </div>
  );
}

/** A whole number that may be left out; `placeholder` says what then happens. */
export function WholeNumber(props: {
  label: string;
  value: number | undefined;
  min: number;
  max?: number;
  placeholder: string;
  onChange: (value: number | undefined) => void;
}): JSX.Element {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      <input
        id={id}
        type="number"
        inputMode="numeric"
        min={props.min}
        max={props.max}
        step={1}
        value={props.value ?? ""}
        placeholder={props.placeholder}
        onInput={(event) => {
          const value = event.currentTarget.valueAsNumber;
          props.onChange(Number.isNaN(value) ? undefined : Math.trunc(value));
        }}
      />
    </div>
  );
}
