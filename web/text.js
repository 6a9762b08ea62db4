// SPDX-License-Identifier: Apache-2.0
// text.js - every word that the pages show, in English and in Chinese, and which of them is shown; the theme's switch.

import { kept } from './dom.js';

const WORDS = {
  // the chat page
  skip: ['Skip to the message', '跳到输入框'],
  talks: ['Conversations', '对话'],
  newTalk: ['New conversation', '新对话'],
  searchTalks: ['Search conversations', '搜索对话'],
  noTalks: ['No conversations yet. They are kept in this browser only.', '还没有对话。对话只保存在此浏览器中。'],
  noneFound: ['Nothing found.', '没有找到。'],
  found: ['{0} found', '找到 {0} 个'],
  untitled: ['Untitled', '未命名'],
  rename: ['Rename “{0}”', '重命名“{0}”'],
  newTitle: ['New title', '新标题'],
  delete: ['Delete “{0}”', '删除“{0}”'],
  deleted: ['“{0}” was deleted.', '“{0}”已删除。'],
  undo: ['Undo', '撤销'],
  exportOne: ['Export this conversation', '导出此对话'],
  exportAll: ['Export all', '全部导出'],
  import: ['Import', '导入'],
  exported: ['{0} exported', '已导出 {0} 个'],
  imported: ['{0} imported.', '已导入 {0} 个。'],
  notImported: ['{0} is no file of conversations of this page.', '{0} 不是本页面导出的对话文件。'],
  dashboard: ['Dashboard', '监控'],
  menu: ['Conversations', '对话列表'],
  model: ['Model', '模型'],
  unloaded: ['not loaded', '未加载'],
  settings: ['Settings', '设置'],
  theme_auto: ['Theme: as the system', '主题：跟随系统'],
  theme_dark: ['Theme: dark', '主题：深色'],
  theme_light: ['Theme: light', '主题：浅色'],
  language: ['中文', 'English'],
  help: ['Keys', '快捷键'],
  close: ['Close', '关闭'],
  cancel: ['Cancel', '取消'],
  messages: ['Messages', '消息'],
  hello: ['What shall it be?', '想聊点什么？'],
  helloMore: ['Text files may be dropped anywhere on this page. What you write goes to this server and to nobody else.', '可以把文本文件拖到页面任意位置。您输入的内容只会发送到这台服务器。'],
  write: ['Write a message', '输入消息'],
  attach: ['Add text files', '添加文本文件'],
  dropHere: ['Drop text files here', '将文本文件拖放到此处'],
  removeFile: ['Remove {0}', '移除 {0}'],
  fileTooLarge: ['{0} is larger than {1}.', '{0} 大于 {1}。'],
  fileNoText: ['{0} is no text in UTF-8.', '{0} 不是 UTF-8 文本。'],
  send: ['Send (Enter)', '发送（Enter）'],
  stop: ['Stop (Esc)', '停止（Esc）'],
  toEnd: ['To the end', '回到末尾'],
  context: ['Context', '上下文'],
  contextUse: ['{0} of {1} tokens', '{0} / {1} 个 token'],
  you: ['You', '您'],
  assistant: ['Assistant', '助手'],
  toolResult: ['Result of {0}', '{0} 的结果'],
  copy: ['Copy', '复制'],
  copied: ['Copied', '已复制'],
  notCopied: ['Not copied', '未能复制'],
  code: ['code', '代码'],
  codeBlock: ['Code, {0}, {1} lines', '代码，{0}，{1} 行'],
  edit: ['Edit', '编辑'],
  editMessage: ['Edit the message', '编辑消息'],
  saveAndSend: ['Save and send', '保存并发送'],
  regenerate: ['Answer again', '重新回答'],
  showRaw: ['Show as JSON', '查看 JSON'],
  branches: ['Versions', '版本'],
  branchBefore: ['Version before', '上一个版本'],
  branchAfter: ['Next version', '下一个版本'],
  thinking: ['Thinking…', '思考中…'],
  thought: ['Thought for {0}', '思考了 {0}'],
  thoughts: ['Thoughts', '思考过程'],
  tokens_one: ['{0} token', '{0} 个 token'],
  tokens: ['{0} tokens', '{0} 个 token'],
  perSecond: ['{0} a second', '每秒 {0} 个'],
  firstAfter: ['first after {0}', '首个用时 {0}'],
  promptTokens: ['{0} read', '读取 {0}'],
  cachedTokens: ['({0} cached)', '（缓存 {0}）'],
  asWritten: ['As written', '原文'],
  asJson: ['As JSON', 'JSON'],
  callOf: ['Call of {0}', '调用 {0}'],
  resultOf: ['Result of {0}', '{0} 的结果'],
  resultHint: ['What the tool gave: text or JSON', '工具返回的内容：文本或 JSON'],
  sendResults: ['Send results', '发送结果'],
  answerEnded: ['The answer has ended.', '回答已结束。'],
  goOn: ['Go on', '继续'],
  retry: ['Try again', '重试'],
  enterKey: ['Enter a key', '输入密钥'],
  openSettings: ['Settings', '设置'],
  ended_length: ['Cut off: the most tokens were reached.', '已截断：达到 token 上限。'],
  ended_stopped: ['Stopped.', '已停止。'],
  ended_interrupted: ['Interrupted when the page was left.', '离开页面时中断。'],
  // failures
  serverSaid: ['The server said: {0}', '服务器说：{0}'],
  cut: ['The connection ended within the answer. What came is kept.', '连接在回答中途断开。已收到的内容已保留。'],
  unreachable: ['The server does not answer. Nothing is lost; it goes on once the server is back.', '服务器没有响应。内容不会丢失，服务器恢复后会继续。'],
  needKey: ['This server wants a key, and this one is not known.', '此服务器需要密钥，当前密钥无效。'],
  forbidden: ['The server refuses this page.', '服务器拒绝了此页面。'],
  noModel: ['There is no such model.', '没有这个模型。'],
  tooLong: ['The conversation does not fit into the model’s context. Begin a new one, or edit an earlier message and leave files out.', '对话超出了模型的上下文长度。请新建对话，或编辑之前的消息并去掉文件。'],
  tooLarge: ['The message is larger than the server takes. Send less at once.', '消息过大，请减少一次发送的内容。'],
  tooMany: ['The server has as many requests as it takes.', '服务器请求已满。'],
  modelLoading: ['The model is being loaded.', '模型正在加载。'],
  notNow: ['The server can not take this now.', '服务器暂时无法处理。'],
  badField: ['The server can not do what “{0}” asks for.', '服务器无法满足“{0}”的要求。'],
  badRequest: ['The server did not take the request.', '服务器没有接受请求。'],
  serverFailed: ['The server failed. Its log has this request as {0}.', '服务器出错，日志中的请求编号为 {0}。'],
  retryIn: ['Tried again in {0} s.', '{0} 秒后重试。'],
  loadingNow: ['Loading: {0} %.', '加载中：{0} %。'],
  waitingForServer: ['Waiting for the server.', '正在等待服务器。'],
  noWait: ['Do not wait', '不再等待'],
  store_full: ['The browser has no more room for conversations. This one goes on, but is not kept: export what you need, delete what you do not.', '浏览器没有更多空间保存对话。当前对话可以继续，但不会被保存：请导出需要的，删除不需要的。'],
  store_broken: ['The browser did not keep the last message. Export the conversation before you leave.', '浏览器未能保存上一条消息。离开前请导出对话。'],
  store_none: ['This browser keeps nothing here (a private window?): conversations last until the page is closed.', '此浏览器不保存数据（无痕窗口？）：对话只保留到页面关闭。'],
  state_ready: ['ready', '就绪'],
  state_loading: ['loading', '加载中'],
  state_draining: ['stopping', '正在停止'],
  state_sick: ['stuck', '无响应'],
  state_offline: ['no answer', '未连接'],
  state_unknown: ['…', '…'],
  // settings
  settingsFor: ['Settings of this conversation', '此对话的设置'],
  settingsAll: ['Empty fields are as the model’s maker set them.', '留空的项目使用模型的默认值。'],
  settingsReset: ['Reset', '全部重置'],
  settingsKeep: ['Use for new ones', '用于新对话'],
  settingsKept: ['New conversations begin with these settings.', '新对话将使用这些设置。'],
  default: ['the model’s', '模型默认'],
  wantNumber: ['A number from {0} to {1}.', '{0} 到 {1} 之间的数字。'],
  wantArray: ['A JSON array is wanted.', '需要 JSON 数组。'],
  wantObject: ['A JSON object is wanted.', '需要 JSON 对象。'],
  badJson: ['No JSON yet: {0}', '还不是 JSON：{0}'],
  set_system: ['System prompt', '系统提示'],
  about_system: ['Who the model is to be, and what it must know.', '模型的角色与需要知道的内容。'],
  set_temperature: ['Temperature', '温度'],
  about_temperature: ['0: always the likeliest word; higher: more varied.', '0：总选最可能的词；越高越多样。'],
  set_top_p: ['Top p', 'Top p'],
  about_top_p: ['Only the likeliest words of together this probability.', '只在累计概率达到此值的词中选择。'],
  set_top_k: ['Top k', 'Top k'],
  about_top_k: ['Only so many of the likeliest words.', '只在最可能的若干词中选择。'],
  set_min_p: ['Min p', 'Min p'],
  about_min_p: ['None below this part of the likeliest one’s.', '排除低于最大概率此比例的词。'],
  set_max_tokens: ['Most tokens', '最大 token 数'],
  about_max_tokens: ['Of an answer.', '每个回答的上限。'],
  set_seed: ['Seed', '随机种子'],
  about_seed: ['The same seed, the same answer.', '种子相同，回答相同。'],
  set_presence_penalty: ['Presence penalty', '存在惩罚'],
  about_presence_penalty: ['Against words that came before.', '抑制出现过的词。'],
  set_frequency_penalty: ['Frequency penalty', '频率惩罚'],
  about_frequency_penalty: ['The more, the oftener they came.', '出现越多抑制越强。'],
  set_repetition_penalty: ['Repetition penalty', '重复惩罚'],
  about_repetition_penalty: ['1: none.', '1：无。'],
  set_stop: ['Stop at', '停止词'],
  about_stop: ['One text a line; an answer ends before it.', '每行一个；回答在其前结束。'],
  set_thinking: ['Thinking', '思考'],
  about_thinking: ['For models that can.', '用于支持思考的模型。'],
  choice_thinking_: ['as the model does', '模型默认'],
  choice_thinking_on: ['on', '开'],
  choice_thinking_off: ['off', '关'],
  set_format: ['Answers are', '回答格式'],
  about_format: ['The server lets nothing else through.', '由服务器强制保证。'],
  choice_format_: ['text', '文本'],
  choice_format_json_object: ['any JSON object', '任意 JSON 对象'],
  choice_format_json_schema: ['JSON of the schema below', '符合下方模式的 JSON'],
  set_schema: ['JSON schema', 'JSON 模式'],
  about_schema: ['Of the answer.', '回答须符合的模式。'],
  set_tools: ['Tools', '工具'],
  about_tools: ['A JSON array of functions as OpenAI’s API has them. You give the results.', 'OpenAI 格式的函数数组，结果由您填写。'],
  set_tool_choice: ['Tool calls', '工具调用'],
  about_tool_choice: ['Whether it must call one.', '是否必须调用。'],
  choice_tool_choice_: ['default', '默认'],
  choice_tool_choice_auto: ['if it wants', '自行决定'],
  choice_tool_choice_required: ['always', '必须'],
  choice_tool_choice_none: ['never', '不调用'],
  set_extra: ['More fields', '其他字段'],
  about_extra: ['A JSON object, put into each request.', '并入每个请求的 JSON 对象。'],
  key: ['API key', 'API 密钥'],
  keyAbout: ['Kept until this tab is closed, unless you say otherwise.', '默认只保留到关闭此标签页。'],
  keyKeep: ['Keep it in this browser', '保存在此浏览器中'],
  save: ['Save', '保存'],
  raw: ['Message as JSON', '消息 JSON'],
  // keys
  key_enter: ['send; with Shift a new line', '发送；加 Shift 换行'],
  key_esc: ['stop the answer; leave a field or a dialog', '停止回答；离开输入框或对话框'],
  key_up: ['in the empty field: edit your last message', '输入框为空时：编辑上一条消息'],
  key_alt: ['from message to message', '在消息间移动'],
  key_new: ['new conversation', '新对话'],
  key_search: ['search', '搜索'],
  key_settings: ['settings', '设置'],
  key_slash: ['to the field', '回到输入框'],
  key_help: ['this list', '此列表'],
  // the dashboard
  chat: ['Chat', '聊天'],
  window: ['Window', '时间范围'],
  minutes: ['{0} min', '{0} 分钟'],
  pause: ['Pause', '暂停'],
  resume: ['Go on', '继续'],
  paused: ['paused', '已暂停'],
  allModels: ['all models', '全部模型'],
  pricePerHour: ['Price of the machine, an hour', '每小时机器价格'],
  now: ['Now', '当前'],
  outputRate: ['Written', '生成'],
  inputRate: ['Read', '读取'],
  tokensPerSecond: ['tokens a second', 'token/秒'],
  running: ['Running', '运行中'],
  waiting: ['Waiting', '等待中'],
  requests: ['requests', '请求'],
  kvUse: ['K/V cache', 'K/V 缓存'],
  kvHeld: ['held by requests', '请求占用'],
  kvCached: ['kept for prompts that begin alike', '前缀缓存'],
  attained: ['Attained', '达标率'],
  costPerMillion: ['Cost of a million', '每百万 token 成本'],
  costHint: ['type a price', '请输入价格'],
  costWritten: ['tokens written', '生成的 token'],
  hitRate: ['Prefix cache', '前缀缓存'],
  ofPrompts: ['of prompt tokens', '占提示 token'],
  failures: ['Failed', '拒绝或失败'],
  inWindow: ['in this window', '此时段内'],
  memory: ['Memory', '内存'],
  up: ['up {0}', '已运行 {0}'],
  throughput: ['Throughput', '吞吐量'],
  batch: ['Batch', '批次'],
  rows: ['tokens a step', '每步 token'],
  sequences: ['sequences a step', '每步序列'],
  queue: ['Requests by class', '各类别请求'],
  queueWaiting: ['{0} waiting', '{0} 等待'],
  queueRunning: ['{0} running', '{0} 运行'],
  latency: ['Latency, p95 of answers', '延迟（回答 p95）'],
  target: ['target', '目标'],
  attainment: ['Answers within their target', '目标达成率'],
  steps: ['Time of a step', '每步时间'],
  part_schedule: ['schedule', '调度'],
  part_model: ['model', '模型'],
  part_sample: ['sample', '采样'],
  classes: ['Classes', '类别'],
  class: ['Class', '类别'],
  answers: ['Answers', '回答'],
  answer: ['Answer', '回答'],
  first: ['First token', '首 token'],
  gap: ['Between tokens', 'token 间隔'],
  share: ['Time', '时间占比'],
  refused: ['Refused', '拒绝'],
  preempted: ['Preempted', '抢占'],
  timeline: ['Last requests', '最近请求'],
  request: ['Request', '请求'],
  status: ['Status', '状态'],
  tokensInOut: ['Tokens', 'token'],
  course: ['Course', '过程'],
  phase_queue: ['waiting', '等待'],
  phase_prefill: ['reading', '读取'],
  phase_decode: ['writing', '生成'],
  cachedShort: ['{0} cached', '缓存 {0}'],
  noRequests: ['No requests yet.', '还没有请求。'],
  asTable: ['As a table', '表格'],
  time: ['Time', '时间'],
  noData: ['nothing in this window', '此时段无数据'],
  latest: ['{0}: {1}', '{0}：{1}'],
  met: ['met', '达标'],
  missed: ['missed', '未达标'],
  noTarget: ['no target', '无目标'],
};

let at = (kept.get('language') || navigator.language || 'en').startsWith('zh') ? 1 : 0;

export const language = () => (at ? 'zh' : 'en');

export function setLanguage(name) {
  kept.set('language', name);
  at = name === 'zh' ? 1 : 0;
}

export function t(name, ...values) {
  return WORDS[name][at].replace(/\{(\d)\}/g, (_, i) => values[i]);
}

export const plural = (name, n) => t(n === 1 ? name + '_one' : name, n.toLocaleString(language()));

export const bytes = (n) => (n < 1024 ? n + ' B' : n < 1048576 ? (n / 1024).toFixed(1) + ' KiB' : (n / 1048576).toFixed(n < 1e8 ? 1 : 0) + ' MiB');

export function ago(time) {
  const minutes = (Date.now() - time) / 60000, f = new Intl.RelativeTimeFormat(language(), { numeric: 'auto', style: 'short' });
  if (minutes < 60) return f.format(-Math.floor(minutes), 'minute');
  if (minutes < 1440) return f.format(-Math.floor(minutes / 60), 'hour');
  if (minutes < 10080) return f.format(-Math.floor(minutes / 1440), 'day');
  return new Date(time).toLocaleDateString(language());
}

// ---- the theme ----

const THEMES = ['auto', 'dark', 'light'];
const theme = () => document.documentElement.dataset.theme || 'auto';

function drawTheme() {
  const b = document.getElementById('theme');
  b.title = t('theme_' + theme());
  b.setAttribute('aria-label', b.title);
  b.querySelector('use').setAttribute('href', '#i-' + theme());
  return b.title;
}

// The next one; its name.
export function nextTheme() {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (next === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  kept.set('theme', next === 'auto' ? null : next);
  return drawTheme();
}

// Words for all elements that name theirs: data-t text, data-t-label name and tip, data-t-hint placeholder.
export function applyTexts() {
  document.documentElement.lang = at ? 'zh-Hans' : 'en';
  for (const e of document.querySelectorAll('[data-t]')) e.textContent = t(e.dataset.t);
  for (const e of document.querySelectorAll('[data-t-label]')) {
    e.setAttribute('aria-label', t(e.dataset.tLabel));
    if (e.tagName === 'BUTTON' || e.tagName === 'A') e.title = t(e.dataset.tLabel);
  }
  for (const e of document.querySelectorAll('[data-t-hint]')) e.placeholder = t(e.dataset.tHint);
  drawTheme();
}
