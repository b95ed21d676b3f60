// The text of each token. A character of several bytes may be spread over several tokens: then the
// last of them gets the character, and those before it get nothing.

export class TokenTexts {
  constructor() {
    this.decoder = new TextDecoder();
  }

  // The text of the next token of `logprobs.content`.
  next(entry) {
    if (!entry.bytes) {
      return entry.token;
    }
    return this.decoder.decode(Uint8Array.from(entry.bytes), { stream: true });
  }
}

// A token's text by itself: spaces and line ends are drawn, and nothing is empty.
export function shown(text) {
  if (text === "") {
    return "(part of a character)";
  }
  return text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

// A probability in per cent, with as many digits as mean something.
export function percent(logProb) {
  const share = Math.exp(logProb) * 100;
  if (share > 99.95) {
    return "100 %";
  }
  if (share < 0.01) {
    return "below 0.01 %";
  }
  return `${share >= 10 ? share.toFixed(1) : share.toPrecision(2)} %`;
}
