// usage: node tests/oracle/make_tokenizer_cases.mjs       (from the root of the tree)
// Writes tests/fixtures/tokenizer/*: small tokenizers that differ in what they use, and texts with the ids that other
// programs give: npm's `tokenizers` (the Rust library) for tokenizer.json, npm's `tiktoken` (the Rust library) for
// tiktoken.model. `make check-tokenizer` installs both under build/peers.
import { createRequire } from 'node:module';
import { readFileSync, writeFileSync, mkdirSync } from 'node:fs';
const need = createRequire(process.cwd() + '/build/peers/');
const { Tokenizer } = need('tokenizers');
const { Tiktoken } = need('tiktoken');

const root = 'tests/fixtures/tokenizer/';
const sample = JSON.parse(readFileSync('samples/tiny-v3/tokenizer.json', 'utf8'));
const published = JSON.parse(readFileSync(root + 'sample/cases.json', 'utf8'));
const common = published.filter((c) => c.text !== undefined).map((c) => c.text);

// The sample's vocabulary, cut behind its first `merges` merges, and an entry that no merge makes.
const WHOLE = 'Ġqz';
function small(merges) {
  const t = structuredClone(sample);
  const last = 259 + merges;
  t.model.vocab = Object.fromEntries(Object.entries(t.model.vocab).filter(([, id]) => id < last));
  t.model.vocab[WHOLE] = last;
  t.model.merges = t.model.merges.slice(0, merges);
  return t;
}
const split = (pattern, invert) => ({ type: 'Split', pattern, behavior: 'Isolated', invert: invert ?? false });
const byteLevel = (use_regex) => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex });
const sequence = (...pretokenizers) => ({ type: 'Sequence', pretokenizers });
function added(first, rows) {
  return rows.map(([content, flags], i) => ({
    id: first + i, content, single_word: flags.includes('w'), lstrip: flags.includes('l'),
    rstrip: flags.includes('r'), normalized: flags.includes('n'), special: flags.includes('s'),
  }));
}

const makers = {
  // Merges as pairs; whole pieces.
  pairs() {
    const t = small(120);
    t.model.merges = t.model.merges.map((m) => m.split(' '));
    t.model.ignore_merges = true;
    return t;
  },
  // Every flag of an added token.
  flags() {
    const t = small(120);
    t.added_tokens.push(...added(380, [
      ['<l>', 'l'], ['<r>', 'r'], ['<lr>', 'lr'], ['word', 'w'], ['wörd', 'wlr'], ['<n>', 'n'], ['<n><n>', 'n'], ['<n><s>', ''],
      ['<s>', 's'], ['<s><s>', 's'], [' ', 'w'], ['\n\n\n\n', ''], ['（', 'lr'],
    ]));
    return t;
  },
  // A pre-tokenizer that is ByteLevel alone, with its own pattern.
  gpt2() {
    const t = small(120);
    t.pre_tokenizer = byteLevel(true);
    t.normalizer = null;
    t.added_tokens = t.added_tokens.slice(0, 3);
    return t;
  },
  // Digits, a literal, an inverted split, a pattern that matches nothing; BOS by template.
  digits() {
    const t = small(120);
    t.pre_tokenizer = sequence(split({ Regex: '[\r\n]' }), sequence(split({ String: '.*[a]' }), split({ String: '--' })),
      split({ Regex: '\\s?[A-Za-z]+' }, true), split({ Regex: '(?=x)' }), { type: 'Digits', individual_digits: true },
      byteLevel(false));
    t.post_processor = { type: 'Sequence', processors: [t.post_processor, {
      type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<｜begin▁of▁sentence｜>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<｜begin▁of▁sentence｜>': { id: '<｜begin▁of▁sentence｜>', ids: [0], tokens: ['<｜begin▁of▁sentence｜>'] } },
    }] };
    return t;
  },
};

const own = {
  pairs: [' qz', 'a qz qzz', ' qzqz', '(qz) qz'],
  flags: ['a  <l>  b', 'a  <r>  b', 'a  <lr> \n b<lr>', '<l>', ' <l>', '<r> ', 'word', 'a word.', 'words', 'sword word', 'word_', '_word', 'word1 word2',
    'éword', 'word é', 'word\u200d', 'wordword', '  wörd  ', ' wörds ', '漢word', '(word)', '<n>', '<n><n>', '<n><n><n>', '<n><s>', '<n><n><s>', '<s><s><s>', 'x<s>y', 'a b',
    ' ', ' a ', '.  .', '\n\n\n\n\n', '  （  ', 'a（b', '\u3000（\u00a0', '<l><l> <l>', '<r> <l>', '<r>  （', '<l', '<n', '<<n>>', 'x \u001c<l>', 'wordwörd', '<｜begin▁of▁sentence｜> <l>'],
  gpt2: ["It's we'll THEY'RE x've", '  two  spaces   three', 'a1b22c333', 'tab\t\tx', 'x \n\n y', "''s", '_a_b'],
  digits: ['1234 ٣٤ ½Ⅷ', 'a.*[a]b.*a', 'a--b---c', 'xx axx', 'x', 'axbxc', ' hello world!! ok', 'a\r\n\r\nb', '.*[a].*[a]'],
};

function cases(texts, encode) {
  return '[\n' + texts.map((text) => JSON.stringify({ text, ids: encode(text) })).join(',\n') + '\n]\n';
}

for (const [name, make] of Object.entries(makers)) {
  mkdirSync(root + name, { recursive: true });
  const text = JSON.stringify(make());
  writeFileSync(root + name + '/tokenizer.json', text.replaceAll(/,"(\w+)":([[{])/g, ',\n"$1":$2') + '\n');
  const t = Tokenizer.fromString(text);
  const ids = [];
  for (const s of [...common, ...own[name]]) ids.push((await t.encode(s, null, { addSpecialTokens: false })).getIds());
  writeFileSync(root + name + '/cases.json', cases([...common, ...own[name]], () => ids.shift()));
}

// Kimi: bytes, then the sample's first merges and some in Han and Cyrillic, as ranks.
const fromAlphabet = new Map();
for (let b = 0, moved = 256; b < 256; b++) {
  const itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  fromAlphabet.set(String.fromCodePoint(itself ? b : moved++), b);
}
const ranks = [];
for (let b = 0; b < 256; b++) ranks.push(Buffer.from([b]));
for (const m of sample.model.merges.slice(0, 300)) ranks.push(Buffer.from([...m.replace(' ', '')].map((c) => fromAlphabet.get(c))));
for (const s of ['漢', '中', '国', '中国', 'при', 'ив', 'HTTP', "'s", "'ll"]) {
  const bytes = Buffer.from(s);
  for (let n = 2; n <= bytes.length; n++)
    if (!ranks.some((r) => r.equals(bytes.subarray(0, n)))) ranks.push(bytes.subarray(0, n));
}
ranks.push(Buffer.from('zqzq')); // no two tokens make it: only as a whole piece
const names = { 0: '[BOS]', 1: '[EOS]', 2: '<|im_end|>', 3: '<|im_user|>', 4: '<|im_assistant|>', 10: '<|im_middle|>', 255: '[PAD]' };
const specials = {};
for (let i = 0; i < 256; i++) specials[names[i] ?? `<|reserved_token_${ranks.length + i}|>`] = ranks.length + i;
const decoder = Object.fromEntries(Object.entries(names).map(([i, content]) => [ranks.length + +i,
  { content, lstrip: false, normalized: false, rstrip: false, single_word: false, special: true }]));
writeFileSync(root + 'kimi/tiktoken.model', ranks.map((r, i) => `${r.toString('base64')} ${i}\n`).join(''));
writeFileSync(root + 'kimi/tokenizer_config.json', JSON.stringify({ added_tokens_decoder: decoder, bos_token: '[BOS]', eos_token: '[EOS]',
  pad_token: '[PAD]', unk_token: null, tokenizer_class: 'TikTokenTokenizer' }, null, 1) + '\n');
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]', lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]';
const ending = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?", before = '[^\\r\\n\\p{L}\\p{N}]?';
const pattern = ['[\\p{Han}]+', before + upper + '*' + lower + '+' + ending, before + upper + '+' + lower + '*' + ending,
  '\\p{N}{1,3}', ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*', '\\s*[\\r\\n]+', '\\s+(?!\\S)', '\\s+'].join('|');
const kimi = new Tiktoken('! 0 ' + ranks.map((r) => r.toString('base64')).join(' '), specials, pattern);
const kimiTexts = [...common, "HelloWorld I'm HTTPServer", 'zqzq zqzqx', '中国中国。漢字かな', 'привет мир', "it's IT'S we'll He'Ll", 'ǅungla ʰa', 'a\u0301B\u0301',
  '[BOS]<|im_user|>user<|im_middle|>Hi<|im_end|>', `<|reserved_token_${ranks.length + 5}|>`, '<|reserved_token_5|>', '1234567', ' !?\r\n\r\nx', 'aЖb', '々〆', '㐀𠀀x'];
writeFileSync(root + 'kimi/cases.json', cases(kimiTexts, (s) => [...kimi.encode(s, 'all')]));
