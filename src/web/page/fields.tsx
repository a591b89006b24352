/** @file The form's two kinds of number fields. */
import type { JSX } from "preact";
import { useId } from "preact/hooks";

/** A slider with its value beside the label; from 0 in steps of 0.05 unless said. */
export function Slider(props: {
  label: string;
  value: number;
  max: number;
  min?: number;
  step?: number;
  /** The value in words; two digits unless given. */
  shown?: string;
  onChange: (value: number) => void;
}): JSX.Element {
  const id = useId();
  const { label, value, max, min = 0, step = 0.05, shown = value.toFixed(2), onChange } = props;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <output for={id}>{shown}</output>
      <input
        id={id}
        type="range"
        min={min}
        max={max}
        step={step}
        value={value}
        style={{ "--filled": `${((value - min) / (max - min)) * 100}%` }}
        onInput={(event) => onChange(event.currentTarget.valueAsNumber)}
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
