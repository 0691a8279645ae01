// A line of the source that is broken on purpose, in a copy of it. No I/O.

export interface Edit {
  file: string
  /** Must stand in the file exactly once. */
  from: string
  to: string
}

/** @returns the edited text, or how often `from` stands in it when that is not once */
export function applyEdit(text: string, { from, to }: Edit): string | { places: number } {
  const places = text.split(from).length - 1
  // a function, so that "$1" in SQL stays what it is
  return places === 1 ? text.replace(from, () => to) : { places }
}
