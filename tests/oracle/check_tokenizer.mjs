// usage: node tests/oracle/check_tokenizer.mjs QUERN        (from the root of the tree, by `make check-tokenizer`)
// Ids of `quern tokenize` against npm's tokenizers (the Hugging Face library in Rust, and their port to JavaScript) and
// tiktoken (Rust), over the tree's own texts and sources, and random text in many scripts from a fixed seed.
import { createRequire } from 'node:module';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
const need = createRequire(process.cwd() + '/build/peers/');
const Rust = need('tokenizers').Tokenizer;
const JavaScript = need('@huggingface/tokenizers').Tokenizer;
const { Tiktoken } = need('tiktoken');
const quern = process.argv[2];

// ---- texts ----
let state = 20240917n;
function random(below) {
  state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
  return Number(state >> 33n) % below;
}
const pick = (list) => list[random(list.length)];
// First code point and count: long assigned, so that every library's Unicode tables know them.
const scripts = [[0x20, 1], [0x20, 1], [0x61, 26], [0x61, 26], [0x41, 26], [0x30, 10], [0x21, 15], [0x3a, 7], [0x5b, 6], [0x0a, 1], [0x0d, 1],
  [0x09, 1], [0xa0, 96], [0x300, 32], [0x391, 17], [0x3b1, 24], [0x410, 64], [0x5d0, 27], [0x627, 20], [0x660, 10], [0x905, 53], [0xe01, 46],
  [0x2000, 11], [0x2010, 24], [0x2150, 16], [0x2190, 64], [0x3001, 3], [0x3041, 80], [0x30a1, 95], [0x4e00, 200], [0xac00, 100], [0xff01, 94],
  [0x1f600, 60], [0x1d400, 40], [0x0, 9], [0xe000, 4]];
const words = ["I'm", "we'LL", '12345678', '<｜begin▁of▁sentence｜>', '<｜end▁of', '   ', '\r\n\r\n', '\n\n\n', 'HTTPServer', '(x)', '_a', '$x+y', 'ア・イ', 'e\u0301', '👩‍👩‍👧‍👦',
  '[BOS]', '<|im_end|>', ' .\n', '🇩🇪', '١٢٣٤', '½', 'don’t', '中国', '。', ' \n \n x'];
function randomText() {
  let s = '';
  for (let n = random(40) + 1; n; n--) {
    if (random(6) === 0) { s += pick(words); continue; }
    const [first, count] = pick(scripts);
    for (let r = random(6) + 1; r; r--) s += String.fromCodePoint(first + random(count));
  }
  return s;
}
const texts = [];
for (const name of ['calibration', 'evaluation']) {
  const lines = readFileSync(`samples/text/${name}.txt`, 'utf8').split(/(?<=\n)/);
  for (let i = 0; i < lines.length; i += 20) texts.push(lines.slice(i, i + 20).join(''));
}
for (const dir of ['formats', 'convert', 'verify', 'man', 'samples/recipes', 'tests/oracle'])
  for (const f of readdirSync(dir)) if (/\.[a-z0-9]+$/.test(f)) texts.push(readFileSync(join(dir, f), 'utf8'));
for (const f of readdirSync('tests/fixtures/tokenizer'))
  if (f !== 'README') for (const c of JSON.parse(readFileSync(`tests/fixtures/tokenizer/${f}/cases.json`, 'utf8'))) if (c.text !== undefined) texts.push(c.text);
for (let i = 0; i < 3000; i++) texts.push(randomText());
texts.push('a'.repeat(100000), ' '.repeat(100000), '\n'.repeat(100000), '7'.repeat(100000), '!?'.repeat(50000), 'か'.repeat(30000));

// ---- Quern ----
const folder = mkdtempSync(join(tmpdir(), 'quern-tokenizer-'));
texts.forEach((t, i) => writeFileSync(join(folder, String(i)), t));
function ours(dir) {
  const all = [];
  for (let i = 0; i < texts.length; i += 500) {
    const files = texts.slice(i, i + 500).map((_, k) => join(folder, String(i + k)));
    all.push(...JSON.parse(execFileSync(quern, ['tokenize', dir, '--no-bos', '--json', ...files], { maxBuffer: 1 << 30 })));
  }
  return all.map((t) => t.ids);
}

let failed = 0;
function compare(what, mine, theirs) {
  const bad = texts.findIndex((_, i) => mine[i].length !== theirs[i].length || mine[i].some((id, k) => id !== theirs[i][k]));
  const same = texts.filter((_, i) => mine[i].length === theirs[i].length && mine[i].every((id, k) => id === theirs[i][k])).length;
  console.log(`${what}: ${same} of ${texts.length} texts have the same ids`);
  if (bad < 0) return;
  failed = 1;
  console.log(`  the first that differs: ${JSON.stringify(texts[bad].slice(0, 300))}\n  ours   ${mine[bad].slice(0, 60)}\n  theirs ${theirs[bad].slice(0, 60)}`);
}

const fixtures = 'tests/fixtures/tokenizer/';
for (const dir of ['samples/tiny-v3', fixtures + 'pairs', fixtures + 'flags', fixtures + 'gpt2', fixtures + 'digits']) {
  const json = readFileSync(dir + '/tokenizer.json', 'utf8'), mine = ours(dir);
  const rust = Rust.fromString(json), theirs = [];
  for (const t of texts) theirs.push((await rust.encode(t, null, { addSpecialTokens: false })).getIds());
  compare(`${dir}, tokenizers (Rust)`, mine, theirs);
  if (dir !== 'samples/tiny-v3') continue; // the port leaves out some of what the others hold
  const port = new JavaScript(JSON.parse(json), JSON.parse(readFileSync(dir + '/tokenizer_config.json', 'utf8')));
  compare(`${dir}, @huggingface/tokenizers`, mine, texts.map((t) => Array.from(port.encode(t, { add_special_tokens: false }).ids)));
}

const model = readFileSync(fixtures + 'kimi/tiktoken.model', 'utf8').trim().split('\n');
const named = JSON.parse(readFileSync(fixtures + 'kimi/tokenizer_config.json', 'utf8')).added_tokens_decoder;
const specials = {};
for (let id = model.length; id < model.length + 256; id++) specials[named[id]?.content ?? `<|reserved_token_${id}|>`] = id;
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]', lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]';
const ending = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?", before = '[^\\r\\n\\p{L}\\p{N}]?';
const kimi = new Tiktoken('! 0 ' + model.map((l) => l.split(' ')[0]).join(' '), specials, ['[\\p{Han}]+', before + upper + '*' + lower + '+' + ending,
  before + upper + '+' + lower + '*' + ending, '\\p{N}{1,3}', ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*', '\\s*[\\r\\n]+', '\\s+(?!\\S)', '\\s+'].join('|'));
// The cuts that Kimi's authors make before they call tiktoken (tokenization_kimi.py).
function cut(text) {
  const parts = [], chars = [...text], space = (c) => /[\s\x1c-\x1f\x85]/u.test(c) && c !== '\ufeff';
  for (let i = 0; i < chars.length; i += 400000) {
    const s = chars.slice(i, i + 400000);
    let start = 0, length = 0, inSpace = space(s[0]);
    s.forEach((c, k) => {
      if (space(c) !== inSpace) { length = 1; inSpace = !inSpace; }
      else if (++length > 25000) { parts.push(s.slice(start, k).join('')); start = k; length = 1; }
    });
    parts.push(s.slice(start).join(''));
  }
  return parts;
}
compare('kimi, tiktoken (Rust)', ours(fixtures + 'kimi'), texts.map((t) => cut(t).flatMap((p) => [...kimi.encode(p, 'all')])));
rmSync(folder, { recursive: true });
process.exit(failed);
