// A text or a pair of texts to token ids, cut to the model's context as the task cuts it in Python.
import { Tokenizer } from "@huggingface/tokenizers";
import type { Row, TextReader } from "./told";

export interface Tokens {
  inputs: Record<string, number[]>;
  /** Tokens of the whole row, and how many of them were read. */
  whole: number;
  read: number;
}

export class TextReading {
  private readonly tokenizer: Tokenizer;
  private readonly ids: Map<string, number>;
  private readonly unknown: number;

  constructor(
    private readonly reader: TextReader,
    tokenizer: object,
    config: object,
  ) {
    this.tokenizer = new Tokenizer(tokenizer, config);
    this.ids = this.tokenizer.get_vocab(true);
    this.unknown = (this.tokenizer.model as unknown as { unk_token_id?: number }).unk_token_id ?? 0;
  }

  read(row: Row): Tokens {
    const first = this.tokenizer.tokenize(row.text ?? "");
    const second = this.reader.pair ? this.tokenizer.tokenize(row.pair ?? "") : null;
    const room = this.reader.limit - this.whole([], second && []).tokens.length;
    const total = first.length + (second?.length ?? 0);
    const [one, two] = shares(first.length, second?.length ?? 0, room);
    const { tokens, token_type_ids } = this.whole(this.cut(first, one), second && this.cut(second, two));
    return {
      inputs: {
        input_ids: tokens.map((token) => this.ids.get(token) ?? this.unknown),
        attention_mask: tokens.map(() => 1),
        token_type_ids: token_type_ids ?? tokens.map(() => 0),
      },
      whole: total,
      read: one + two,
    };
  }

  private cut(tokens: string[], length: number): string[] {
    return this.reader.side === "left" ? tokens.slice(tokens.length - length) : tokens.slice(0, length);
  }

  /** With the tokens that the tokenizer adds of its own. */
  private whole(first: string[], second: string[] | null): { tokens: string[]; token_type_ids?: number[] } {
    const add = this.tokenizer.post_processor;
    return add ? add.post_process(first, second, true) : { tokens: [...first, ...(second ?? [])] };
  }
}

/** How many tokens of each text are kept in `room`: the longer one is cut first. */
export function shares(first: number, second: number, room: number): [number, number] {
  if (first + second <= room) return [first, second];
  const short = Math.min(first, second, Math.floor(room / 2));
  if (first <= second) return [short, Math.min(second, room - short)];
  return [Math.min(first, room - short), short];
}
