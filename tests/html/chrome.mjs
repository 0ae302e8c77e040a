// usage: node chrome.mjs CHROMIUM OUT PAGE ...
// Opens each page in a headless Chromium, on a phone and on a desk, in light and dark and as for print, looks at what a
// reader would mind, and writes pictures to OUT. Speaks DevTools' protocol over the browser's own pipe; needs nothing
// beyond node. Last line: "N passed, N failed, N skipped".
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { mkdtempSync, rmSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const [chromium, out, ...pages] = process.argv.slice(2)
const profile = mkdtempSync(join(tmpdir(), 'check-html-'))
mkdirSync(out, { recursive: true })

const browser = spawn(chromium, ['--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
  '--remote-debugging-pipe', '--no-first-run', `--user-data-dir=${profile}`, 'about:blank'],
  { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] })

// ---- the protocol: JSON messages that end in a NUL
let next = 0, rest = ''
const waiting = new Map(), listeners = []
browser.stdio[4].setEncoding('utf8').on('data', (text) => {
  const parts = (rest + text).split('\0')
  rest = parts.pop()
  for (const part of parts) {
    const message = JSON.parse(part)
    if (message.id) {
      const { done, fail } = waiting.get(message.id)
      waiting.delete(message.id)
      message.error ? fail(new Error(message.error.message)) : done(message.result)
    } else for (const listener of listeners) listener(message)
  }
})
const send = (method, params = {}, sessionId) => new Promise((done, fail) => {
  waiting.set(++next, { done, fail })
  browser.stdio[3].write(JSON.stringify({ id: next, method, params, sessionId }) + '\0')
})
const event = (method, sessionId) => new Promise((done) => {
  const listener = (m) => {
    if (m.method !== method || m.sessionId !== sessionId) return
    listeners.splice(listeners.indexOf(listener), 1)
    done(m.params)
  }
  listeners.push(listener)
})

let passed = 0, failed = 0
const check = (name, problem) => {
  if (!problem) return passed++
  failed++
  console.log(`FAILED ${name}\n  ${problem}`)
}

// ---- what is looked at, in the page
const inspect = () => {
  const width = document.documentElement.clientWidth
  const inScroller = (e) => e.closest('.scroll') && !e.matches('.scroll')
  const seen = (e) => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0 }
  const wide = [...document.querySelectorAll('body *')]
    .filter((e) => !inScroller(e) && seen(e) && (e.getBoundingClientRect().right > width + 1 ||
      e.getBoundingClientRect().left < -1))
  const text = [...document.querySelectorAll('body *')].filter((e) => seen(e) && !inScroller(e) &&
    [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  const small = text.filter((e) => parseFloat(getComputedStyle(e).fontSize) < 9)
  // Labels of one axis must not lie on each other.
  const collide = [...document.querySelectorAll('.x, .y')].filter((axis) => {
    const boxes = [...axis.children].map((s) => s.getBoundingClientRect())
    return boxes.some((a, i) => boxes.slice(i + 1).some((b) =>
      a.left < b.right - 0.5 && b.left < a.right - 0.5 && a.top < b.bottom - 0.5 && b.top < a.bottom - 0.5))
  })
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 })
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const color = (s) => { const n = s.match(/[\d.]+/g).map(Number); return n.length > 3 && n[3] === 0 ? null : n.slice(0, 3) }
  const ground = (e) => { for (; e; e = e.parentElement) { const c = color(getComputedStyle(e).backgroundColor); if (c) return c } return [255, 255, 255] }
  const pale = text.filter((e) => {
    const a = luminance(color(getComputedStyle(e).color)), b = luminance(ground(e))
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5
  })
  const charts = [...document.querySelectorAll('svg[role=img]')].map((svg) => {
    const box = svg.getBoundingClientRect()
    const marks = [...svg.querySelectorAll('rect, path:not(.grid)')].filter((m) => {
      const d = m.getAttribute('d'), style = getComputedStyle(m)
      return m.tagName === 'rect' ? m.getAttribute('height') > 0 : d && !/NaN|inf/i.test(d) && (style.fill !== 'none' || style.stroke !== 'none')
    })
    return { label: svg.getAttribute('aria-label'), marks: marks.length, width: box.width, height: box.height }
  })
  // What a reader would scroll to is lost on paper.
  const cut = [...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth + 1)
  const words = [...document.querySelectorAll('h1, h2, h3, figcaption, th, dt')].filter(seen)
    .flatMap((e) => e.innerText.split('\n'))
  const name = (e) => e.outerHTML.slice(0, 120)
  return { scroll: document.documentElement.scrollWidth, width, wide: wide.map(name), small: small.map(name),
    collide: collide.map(name), cut: cut.map(name), words, pale: pale.map(name), charts, bad: /NaN|Infinity|\binf\b|undefined/.test(document.body.innerText),
    title: document.title, height: document.documentElement.scrollHeight }
}

// On A4, as a reader prints it: the pages, and their text by poppler, without spaces, for lines break elsewhere there.
async function print(path, sessionId) {
  const { data } = await send('Page.printToPDF', { paperWidth: 8.27, paperHeight: 11.69, printBackground: true }, sessionId)
  writeFileSync(path, Buffer.from(data, 'base64'))
  const text = execFileSync('pdftotext', ['-layout', path, '-'], { encoding: 'utf8' })
  return text.split('\f').slice(0, -1).map((page) => page.replace(/\s/g, ''))
}

const views = [
  { name: 'phone', width: 360, mobile: true, scheme: 'light' },
  { name: 'phone-dark', width: 360, mobile: true, scheme: 'dark' },
  { name: 'desk', width: 1200, mobile: false, scheme: 'light' },
  { name: 'desk-dark', width: 1200, mobile: false, scheme: 'dark' },
  { name: 'print', width: 720, mobile: false, scheme: 'light', media: 'print' },
]

async function look(page, view) {
  const { targetId } = await send('Target.createTarget', { url: 'about:blank' })
  const { sessionId } = await send('Target.attachToTarget', { targetId, flatten: true })
  const problems = [], fetched = []
  const listener = (m) => {
    if (m.sessionId !== sessionId) return
    if (m.method === 'Runtime.exceptionThrown') problems.push(m.params.exceptionDetails.text)
    if (m.method === 'Log.entryAdded' && m.params.entry.level === 'error') problems.push(m.params.entry.text)
    if (m.method === 'Network.requestWillBeSent') fetched.push(m.params.request.url)
  }
  listeners.push(listener)
  for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await send(`${domain}.enable`, {}, sessionId)
  await send('Emulation.setDeviceMetricsOverride',
    { width: view.width, height: 800, deviceScaleFactor: view.mobile ? 2 : 1, mobile: view.mobile }, sessionId)
  await send('Emulation.setEmulatedMedia', { media: view.media ?? '',
    features: [{ name: 'prefers-color-scheme', value: view.scheme }] }, sessionId)
  const loaded = event('Page.loadEventFired', sessionId)
  await send('Page.navigate', { url: pathToFileURL(resolve(page)).href }, sessionId)
  await loaded
  const { result } = await send('Runtime.evaluate', { expression: `(${inspect})()`, returnByValue: true }, sessionId)
  const seen = result.value, name = `${basename(page, '.html')} ${view.name}`

  check(`${name}: no script error`, problems.join('; '))
  check(`${name}: nothing is fetched`, fetched.filter((u) => !u.startsWith('file:')).join(' '))
  check(`${name}: fits ${view.width} px`, seen.scroll > seen.width || seen.wide.length ? `${seen.scroll} wide: ${seen.wide.slice(0, 3).join('\n  ')}` : '')
  check(`${name}: text can be read`, seen.small.join('\n  '))
  check(`${name}: labels do not collide`, seen.collide.join('\n  '))
  check(`${name}: contrast of 4.5 : 1`, seen.pale.slice(0, 3).join('\n  '))
  check(`${name}: numbers are numbers`, seen.bad ? 'NaN or inf in the text' : '')
  check(`${name}: has charts`, seen.charts.length >= 2 ? '' : `${seen.charts.length} charts`)
  for (const chart of seen.charts)
    check(`${name}: '${chart.label}' shows something`, chart.marks > 0 && chart.width > 150 && chart.height > 60 ? '' : JSON.stringify(chart))

  if (view.media === 'print') {
    const sheets = await print(join(out, `${basename(page, '.html')}.pdf`), sessionId), all = sheets.join('')
    const lost = seen.words.filter((w) => !all.includes(w.replace(/\s/g, '')))
    check(`${name}: nothing is cut off`, seen.cut.join('\n  '))
    check(`${name}: has pages, and text on each`, sheets.length > 0 && sheets.every((s) => s) ? '' : `${sheets.length} pages, ${sheets.filter((s) => !s).length} of them empty`)
    check(`${name}: headings and labels are on paper`, lost.length || !seen.words.length ? `${lost.length} of ${seen.words.length}: ${lost.slice(0, 5).join(' | ')}` : '')
  }

  const { data } = await send('Page.captureScreenshot', { captureBeyondViewport: true,
    clip: { x: 0, y: 0, width: view.width, height: Math.min(seen.height, 8000), scale: 1 } }, sessionId)
  writeFileSync(join(out, `${basename(page, '.html')}-${view.name}.png`), Buffer.from(data, 'base64'))
  listeners.splice(listeners.indexOf(listener), 1)
  await send('Target.closeTarget', { targetId })
}

const timer = setTimeout(() => { console.log('check-html: the browser did not answer for 120 seconds'); browser.kill(); process.exit(1) }, 120000)
for (const page of pages) for (const view of views) await look(page, view)
clearTimeout(timer)
await send('Browser.close').catch(() => {})
await new Promise((done) => browser.exitCode !== null ? done() : browser.once('exit', done))
rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
console.log(`${passed} passed, ${failed} failed, 0 skipped`)
process.exitCode = failed ? 1 : 0
