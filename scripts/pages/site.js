// The search box. Without this script the site reads the same, and the box is not shown.
const top_ = document.currentScript.dataset.top
const form = document.querySelector('form[role=search]'), input = form.querySelector('input'), list = form.querySelector('ul')
let entries = null

function siteIndex(found) { entries = found.map(e => [...e, (e[0] + ' ' + e[1]).toLowerCase()]); show() }

function load() {                       // a script, not a request: it also works from a folder on disk
  if (load.done) return
  load.done = true
  const s = document.createElement('script')
  s.src = top_ + 'index.js'
  document.head.append(s)
}

function rank(e, query) {               // smaller is better: the name itself, its beginning, its middle, its page
  const name = e[0].toLowerCase()
  return name === query ? 0 : name.startsWith(query) ? 1 : name.includes(query) ? 2 : 3
}

function show() {
  const query = input.value.trim().toLowerCase(), words = query.split(/\s+/)
  list.replaceChildren()
  if (!query || !entries) return
  const hits = entries.filter(e => words.every(w => e[3].includes(w))).map((e, i) => [rank(e, query), i, e])
  hits.sort((a, b) => a[0] - b[0] || a[1] - b[1])
  for (const [, , [name, page, url]] of hits.slice(0, 12)) {
    const li = document.createElement('li'), a = document.createElement('a'), small = document.createElement('small')
    a.href = top_ + url; a.textContent = name; small.textContent = page
    a.append(small); li.append(a); list.append(li)
  }
  if (!hits.length) list.append(Object.assign(document.createElement('li'), {textContent: 'Nothing found'}))
}

form.hidden = false
input.addEventListener('focus', load)
input.addEventListener('input', () => { load(); show() })
input.addEventListener('keydown', e => { if (e.key === 'Escape') { input.value = ''; show() } })
form.addEventListener('submit', e => { e.preventDefault(); list.querySelector('a')?.click() })
document.querySelector('#contents [aria-current]')?.scrollIntoView({block: 'center'})
window.scrollTo(0, 0)
if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView()
