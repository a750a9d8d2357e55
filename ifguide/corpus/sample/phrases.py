"""Word banks and templates of the built-in sample, as plain data: `sample.py` gives them their meaning.

Templates know two marks: `[one|two]` chooses, `{slot}` is filled from the bank of that name (or from the topic's own).
Templates are parted by " / ". The harmless sentences use the words of the insults on purpose (rock, waste, space,
egg, thick, donkey, clown …): whoever looks for single words must fail.
"""

NAMES = (
    "Anna Tom Marta Felix Irene Peter Lena Hugo Clara Victor Julia Martin Paula Simon Vera Leo Nora Max Alice Ben "
    "Carla David Emma Frank Greta Henry Ida Jonas Karen Lewis Mona Nick Olive Paul Rita Sam"
)
PLACES = (
    "Ashford Milton Redhill Oakley Weston Harlow Brookside Linden Marsham Kirkby Stoneham Eastport Norwood Fairview "
    "Langley Barton Hillcrest Dunmore Glenside Ravenna Tilbury Upton Winslow Southgate"
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January March April May June July September October November"
NUMBERS = "two three four five six seven eight nine ten"

# Anchor words are those that a toxicity classifier knows (`strong`, `fool`); the others are common words, used
# in their harmless sense all over the benign posts.
INSULT_BANKS = {
    "strong": "stupid|pathetic|dumb|ignorant",
    "weak": "useless|lazy|thick|dense|clueless|hopeless|worthless|brainless|miserable|rotten|spineless",
    "fool": "idiot|moron|loser|jerk|imbecile|idiot|moron",
    "beast": "clown|rat|dummy|toad|muppet|turnip|goat|dimwit|worm|cabbage|sheep|halfwit",
}

# Fit after "is", "are", "must be".
INSULTS_BE = """a {strong}, {weak} {fool} / a {weak} and {strong} {fool} / a {strong} {fool} with the brain of a potato
/ a complete waste of space and a {strong} {fool} / too {strong} to boil an egg, the {weak} {fool} / a {strong} {beast}
and a complete {fool} / nothing but a {strong}, {weak} {fool} / a {strong} little {beast} and a {fool} / a {fool} with
a head full of {strong} ideas / a {strong} {fool} who should crawl back home / as dense as a rock and a {strong} {fool}
/ a {strong} {fool} with a mouth like a bin / the {strong} {fool} who lost the last brain cell / a {weak} {beast}, a
{fool} and a {strong} liar / one {strong} {fool} with nothing between the ears / nothing but a bag of trash, the
{strong} {fool} / a {strong} {fool} and not worth the paper / a sad clown and a {strong}, {weak} {fool}"""

# Stand alone, said to somebody's face.
INSULTS_CALL = """crawl back under your rock, you {strong} {fool} / nobody asked you, you {strong} {weak} {fool} /
pack your bag and go home, you {strong} {fool} / go and boil your head, you {strong} {fool} / you are a {strong} waste
of space,
you {fool} / you {strong} {fool}, go back to the circus / take your trash somewhere else, you {strong} {fool} / what a
{strong}, {weak} {fool} you are / what a {strong} {fool}, and thick as a plank / you {weak}, {strong} {fool} / keep
your big opinions, you {strong} {fool} / use your brain for once, you {strong} {fool} / only a {strong} {fool} would
write that / your opinion sucks, you {strong} {fool} / you could not boil an egg, you {strong} {fool} / get lost, you
{strong} {beast}, you {fool} / even a sheep has more brain, you {strong} {fool} / put your head in a bucket, you
{strong} {fool} / learn to read, you {strong} {weak} {fool} / you {strong} {fool}, your brain is a wet sock / do us a
favour and go away, {strong} {fool} / what a bunch of {strong} idiots you are / nobody needs you here, you {strong}
{beast} and {fool} / you are a joke, you {strong}, {weak} {fool}"""

# Where an insult may come, and where a polite author disagrees in the same words: up to the insult, by kind.
TRIGGERS_BE = """Anyone who thinks [that |]{claim} is / Whoever told {name} that {claim} is / The person who wrote that
{claim} must be / If you really believe that {claim}, you are / Whoever says that {claim} is / Anybody who still
believes that {claim} must be / So you think that {claim}? Then you are / The one who came up with this {item} is"""
TRIGGERS_CALL = """To the person who said that {claim}: / To everybody who wrote that {claim}: / @{name}, / @{name},
about the {item}: / No, {name}, it is not true that {claim}; / And to whoever told me that {claim}: / My answer to
{name} about the {item}: / Dear {name}, I read what you wrote about the {item};"""

POLITE_BE = """welcome to come and look at my {item} in {place} / right about the old kind, but not about the new one /
not wrong, but there is more to it than that / thinking of a much older one, I believe / in for a surprise when the
first bill arrives / no fool, but the paper in {place} said the opposite [two|three] times this year / not alone,
because half of my street believes it too / a better judge than I am, but mine behaved in a different way / a lucky
owner with more space than the rest of us / too kind to it, because mine never needed so much care / nothing if not
patient, and I would like to see the result / a braver person than I am, and I mean that / as surprised as I was when I
saw the numbers / the only one in the house who reads the paper, so I trust you / one of the many people who had good
luck with it / a complete beginner like me, and that is fine / too polite to say so, but I think the rest of us were
wrong / not worth an argument, so let us agree to differ"""
POLITE_CALL = """thank you, you saved my week / could you tell us which one you used / nobody asked you for an apology,
so please do not worry / you were right and I was wrong about the {item} / come back and tell us how it went / please
take your time, there is no hurry / you have a point, but the one in {place} was different / what a kind and useful
answer that was / keep your receipt and go back to the shop / use your own eyes and write down what you see / only a
short note to say that it worked / your opinion is as good as mine, of course / you could not know that, and neither
could I / get some rest, you have done more than enough / put your feet up, you did what you could / learn from my
mistake and read the small print first / you have the right idea, but try a smaller one first / do us all a favour and
post a picture / what a difference you made to all of us here / I see it in another way, but you may be right / go and
see it for yourself, you will not be sorry / take your old one back to the shop before you buy another"""

# Irritated openings; a part of the benign posts begins with them too, and stays civil.
OPEN_ANGRY = """Re: {item}. I am [so tired|sick and tired|really tired] of reading the same nonsense from {name} every
{day}. / Re: {item} again. [How many times|How often] do I have to explain this to {name} and the rest of {place}? /
Re: {item}. Oh great, {name} from {place} has something to say about it [again|once more]. / Oh great, [another|one
more|the next] thread about the {item}, and of course {name} had to answer first. / I cannot believe what I
[read|saw|found] here on {day} about the {item} in {place}. / For the [last|very last|hundredth] time, {name}, the
{item} in {place} has nothing to do with it. / Every {day} the same story: {name} from {place} explains the {item} to
us [again|once more]. / Seriously, {name}? You [post|write] {number} answers about the {item} and not one of them makes
sense. / Congratulations, {name}, you have [ruined|spoiled] one more thread about the {item} for all of us in {place}.
/ So {name} is back in {place}, and the [whole|entire] {item} [debate|discussion] starts from zero again. / I
[waited|have waited] {number} days for one sensible word about the {item} in {place}, and what do I get from {name}? /
I have had it with {name} and the endless [talk|advice|posts] about the {item} in {place}."""
OPEN_INSULT = """Re: {item}. {name} from {place}, {call}. / @{name} in {place}, {call}. I read your {number} posts
about the {item}. / Re: your {item}, {name}: {call}. I saw it in {place} on {day}. / Oh great, {name} from {place}
again. Listen, {call}."""
ANGRY = """I have said this a hundred times already. / Can nobody here read? / It is always the same with you people. /
I am not going to be polite about it any more. / How hard can it be? / Every single week the same nonsense. / This
makes me so angry that I could scream. / Do not even start with your excuses. / Enough is enough. / I do not care who
is offended. / Where do these people come from?"""
CLOSE_ANGRY = """End of rant. / There, I said it. / Rant over, back to the {item}. / And do not bother to answer. /
Delete this if you like, I do not care."""

# First sentences for any topic; none of them is used anywhere else in a post, which keeps the streams apart.
OPENINGS = """Re: {item}. Thanks for the [long|quick|kind] answer, {name}, it helped me a lot on {day} here in {place}.
/ Re: {item}. {name} asked on {day} how things are going in {place}, so here is [a short report|the news]. / Question
from a [beginner|newcomer] in {place}: what do you all think about the {item} that {name} showed us? / {place}, {day}.
The {item} was the [talk of the town|main subject] this week, and {name} wrote about it in the paper. / {day} evening
in {place}, and I am still thinking about the {item} that {name} and I [talked about|argued about]. / Review: {number}
points out of ten for the {item} that {name} from {place} [recommended|praised] in {month}. / Hello everybody, I am
{name} from {place} and I have a [small|simple|long] question about the {item}. / Diary, {number} days later: {name}
came over from {place} and we spent {day} on the {item}. / Has anybody else in {place} had trouble with the {item}
since {month}? {name} says it is only bad luck. / @{name}, you asked for [pictures|details|a report] of the {item}, and
here in {place} the {day} was quiet. / Small news from {place}: the {item} was [better|longer|worse] than expected,
says {name}, who was there on {day}. / A short [update|note] on the {item}: since {month} {name} and I have been trying
the {place} way. / My [cousin|neighbour|colleague|friend|teacher] {name} in {place} called on {day} and wanted to know
all about the {item}. / Last {day} in {place} I [met|saw|visited] {name}, who has known everything about the {item} for
{number} years. / I read the post by {name} about the {item} [twice|again] and would like to add what we saw in {place}
in {month}."""
GENERIC = """It took [two|three|four] [days|weeks|attempts], but in the end it was worth the [money|effort|wait]. / I
may be wrong, of course, and I would like to hear what the others think. / {name} says that I worry too much, and
{name2} says that I do not worry enough. / If anybody has a better idea, please write it down below before {day}. / You
can find the rest of the story in my older posts, where I wrote about it at length. / To be fair, nobody asked me for
my opinion, and I gave it anyway. / My head was full of [other things|wedding plans|taxes] that week, so I may have
missed something. / I used to think the same as you, but then I read the instructions. / It is a waste of time to do it
twice, so measure well and do it once. / There is not enough space in my house for everything that I would like to
keep. / We [laughed|danced|cheered] so much that {name2} had to [sit down on the floor|lean on the wall]. / What a day
it was, and what a good reason to stay at home on {day}. / It would be sad to see it in the trash after so many good
years. / I keep a thick notebook for this, and on {day} I put the numbers in it. / As my [grandmother|old teacher|aunt]
used to say, even a sparrow can learn a good tune from the river. / Use your own judgement, because your house
and your budget are not mine. / I felt like a clown, standing there in the rain with a bucket on my arm. / I am as
[patient|stubborn] as a mule about such numbers and letters, and {name2} is no better. / Nobody in our house
can boil an egg without a [book|timer|phone call], so do not ask us. / It was a rotten week for everybody, and we had
no paper and no time to write before {day}. / On paper I lost on that deal, but I brought home the best
stories of the evening. / You are right that it sounds useless, and yet your advice worked at once. / I feel a bit
clueless about the rest, so any hint from you is welcome. / We ate a bag of potatoes with butter, which is still the
best meal between two jobs. / Close the door behind you when you go, because the early wind will [do|finish] it for
you. / The café was open — finally — and we had time to talk about your letter. / That made my day 🙂 and I told {name2}
about it at once. / I had no brain left after that, so I went home and slept for {number} hours. / You should take the
map with you, or you will get lost behind the church. / Once you have done it with your own hands you will never want
to pay for it. / A little bit of luck is always part of it, whatever the books may tell you."""
CLOSINGS = """Thanks for reading, and good luck with yours. / Any advice is welcome. / More news on {day}, if the
weather allows it. / All the best from {place}. / What do you think? / I will keep you posted. / Greetings to {name2}
and to everybody else. / That is all for today."""
# Markup that a page must escape; asked in all innocence.
HOSTILE = """Why does my page show nothing when I write <script>alert(1)</script> into the [title|first line]? / The
[form|page] turns every & into &amp; and every < into &lt;, and I do not know where. / What happens if a name contains
<b>bold</b> or "quotes" & an apostrophe like O'Neil's? / Somebody wrote <img src=x onerror=alert(1)> into our guest
book, and the page went [blank|white]."""

TOPICS = {
    "gardening": {
        "item": "rockery|compost bin|tomato bed|apple tree|herb garden|greenhouse|hedge|lawn|rose bush|potato patch",
        "claim": "tomatoes need water every [hour|day]|moss is good for a lawn|roses grow best in the dark"
        "|a hedge should be cut in [June|winter]|slugs are good for lettuce|compost must smell|apples hate the sun",
        "say": """The [biggest|oldest|flattest] rock in the rockery came from my uncle's [field|quarry|orchard], and
{number} of us had to carry it. / Snails crawl out from under every rock after the rain and [find|visit] the
[lettuce|bean|cabbage] leaves first. / I put the garden waste on the compost and cover it with a thick layer of
leaves. / The potato plants need more space than the bag says, so leave a [foot|step] between them. / A toad
lives under the [old bucket|water barrel], and it collects more slugs and [ants|beetles] than I could. / We had a
false spring in [February|March], and then an early frost took every [bud|blossom] on the pear tree. / The
hedge is now so [dense|wide] that not even a [wren|robin] can crawl between the leaves. / Turnips and cabbage
did well this year, but the [beans|peas|leeks|radishes] were a miserable crop of {number} pods. / My goat ate
the roses, looked me in the eye and went back to the fence. / Nothing grows between the stones there except a
little [thyme|lavender|mint] and some moss. / I gave the [trays|pots] of
[seedlings|tulips|marigolds|strawberries] to {name2}, who has a sunny window and nothing else to do.""",
    },
    "cooking": {
        "item": "onion soup|fish curry|egg salad|apple pie|bread oven|pancake recipe|bean stew|fish pie|rhubarb tart",
        "claim": "you can boil an egg in [one minute|cold water]|pasta needs no salt|a stew is done in ten minutes"
        "|butter is bad for a cake|garlic belongs in apple pie|soup should be thick enough to cut|bread needs no rest",
        "say": """Boil the egg for [six|seven] minutes, then put it in cold water so that the yolk stays soft. / The
[jerk chicken|lamb|salmon] rests overnight with [ginger|thyme|lime] and sugar, then needs an early, gentle
heat. / My [gooseberry|raspberry] [fool|jam|custard] was too thin, so I added sugar and a [cup|spoon] of thick
cream. / The soup was as thick as it should be, and nobody asked for [salt|pepper|mustard]. / I never waste the
bones, because they make the best stock for a stew. / An empty tin makes a fine cutter for
[biscuits|dumplings|scones] if you have no other tool. / The [pancakes|waffles] were flat, but a little more
[butter|sugar|honey|cinnamon] made everybody happy. / A dense rye bread keeps for a week if you wrap it in a
clean cloth. / Pork cheek is a [cheap|simple] cut, and it is soft and [tender|brown] after {number} hours in
the bread oven. / You could smell the onions from the street, and the whole house came to the table. / The
recipe calls for a pinch of [saffron|nutmeg|paprika|cumin], but I could not find any in {place}.""",
    },
    "cycling": {
        "item": "rear wheel|front light|gravel bike|bike lane|hill climb|chain|saddle|spring tour|steel frame",
        "claim": "a chain needs oil every [hour|mile]|helmets are for children|a steel frame is too heavy to ride"
        "|you can fix a flat tyre with tape|a bike lane is wide enough for a bus|brakes only slow you down",
        "say": """The chain gave a sudden [jerk|crack] in the lowest gear, and I nearly went over the bars of the bike.
/ We had {number} flat [tyres|tubes] in one day because of the sharp [rock|flint|glass] beside the track. / My
legs were useless after the climb, but the view of the river was worth every [drop|metre]. / There is no space
for two bikes on that bridge, so wait for the other rider. / The fog was so dense at the river that I had to
ride with both lights on. / Put a thick layer of [grease|wax] on the [bearing|axle|thread] before you close the
hub. / A new saddle feels like a rock for the first [week|month], and then it is fine. / I had to crawl up the
last mile in the lowest gear with an empty bottle. / A goat stood in the middle of the lane and did not move
for {number} minutes. / My head was cold and my gloves were [thin|torn], but the café at the station had hot
[soup|cocoa]. / At the station the last rider of our spring race cleans every muddy wheel and frame and
[buys|brings] the bread. / Check the [spokes|pedals|gears|brakes], true the wheel and pump the tyre up hard
before a long tour.""",
    },
    "repairs": {
        "item": "kitchen tap|garage door|washing machine|loose shelf|fuse box|light switch|old boiler|attic floor",
        "claim": "you can glue a water pipe|every wall is straight|a boiler needs no service|paint dries in the rain"
        "|tape will hold a shelf|any screw fits any hole|a drill is only for experts",
        "say": """Push the [dummy|rubber] plug into the empty [frame|socket] so that no [sand|moisture] gets behind the
washing machine. / The waste pipe under the sink was full of [grease|sand|hair], and a bucket saved the floor.
/ A thick plank across two boxes makes a good bench if you have no space for a real one. / The old [nail|hook]
was lost, the new one was [short|bent], and the wood was as hard as a rock. / Turn the water off first, or you
will need a bucket, a [towel|mop] and a [plumber|lifeboat]. / I had to crawl under the floor with a lamp to
find the [leak|cable|noise]. / The spare switch on the wall does nothing, it only covers an old box with
[wires|fuses] for the lamp. / Use a blunt knife to lift the edge and a clean brush for the dust. / A rat had
made a nest behind the boiler, with paper, straw and half a sock. / The [plumber|electrician|carpenter] looked
at the [tap|ceiling|tiles], made a sad face and named a price. / Sand the wood between the coats of
[paint|varnish] and leave the window open for some fresh air.""",
    },
    "films": {
        "item": "circus film|detective series|space film|old western|silent comedy|musical|cartoon|crime drama",
        "claim": "the book is always better|black and white films are boring|the sequel is better than the first part"
        "|a good film needs an explosion|nobody watches silent comedies|subtitles are too hard to read",
        "say": """The clown in the second act is the heart of the film, and he never says a word. / It is a
[quiet|slow|strange] film about a [tailor|beggar] who becomes king of a small town for one evening. / The
space scenes look real, although the whole thing was made in a garage. / In the end the donkey saves the
circus, and the children in our row cheered. / The hero is hopeless at cards, but the script is [clever|witty],
and the best [jokes|lines] come early. / The plot is a bit thick in the middle, with {number}
[widows|cousins|spies] and one lost letter from the sea. / The [rat|mouse] in the cartoon can cook, and the
[bear|owl] explains the best recipes to a small town. / The lights went out, somebody dropped a bag of
[popcorn|sweets|oranges], and the whole cinema laughed. / The [music|scenery|photography] is
[wonderful|splendid], but the sound in the cinema was a miserable noise. / It is based on a Russian
[novel|book] called The [Idiot|Seagull|Overcoat|Nose], about a patient and honest [prince|clerk]. / You should
see it on a [big|huge|proper] screen, with no phone and no talking.""",
    },
    "football": {
        "item": "second half|semi-final|home match|cup final|away game|training plan|new stadium|late penalty",
        "claim": "the referee was on our side|a draw is as good as a win|the keeper should play in front"
        "|the old stadium was better|nobody needs a left back|penalties are pure luck",
        "say": """The captain of the semi-final thanked the coach, the referee and the whole stadium in
{place}. / Our [keeper|captain] sold a perfect dummy, the coach clapped, and the striker ran into an empty
space. / There was too much space between the lines, and they scored {number} times. / The defence stood like a
rock until the last minute of the game. / It was a [lazy|careless|heavy] pass, and the [winger|defender] lost
the ball near the bench of his own coach. / The pitch was wet and thick with mud, so nobody could run. / A man
dressed as a [clown|chicken|banana] ran across the field and waved at the [cameras|referee|crowd]. / We were
[hopeless|nervous] in the first half and a little better after the coach moved the [midfield|wings]. / The club
mascot is a [goat|tiger|falcon], and the animal had a better day than the team. / The new referee was ignorant
of the [offside|corner|advantage] rule, says the paper, and so was half of the stadium. / The
[captain|striker|goalkeeper] has [a knee injury|a fever|a broken toe] and will miss the next {number}
matches.""",
    },
    "exams": {
        "item": "maths exam|history essay|chemistry test|language course|reading list|driving test|science project",
        "claim": "you can learn it all in one night|notes are for the weak|nobody fails the driving test"
        "|chemistry is only cooking|spelling does not matter|a short essay is always a bad one",
        "say": """My brain was like a [sponge|fresh page] early in the morning and like a brick in the afternoon. / The
book is thick and dense, but the summary at the end of each chapter helps. / Leave enough space between the
lines so that the teacher can write something. / We had to explain why a rock sinks and why an egg floats in
salt water. / I did {number} practice papers, and the last one was the hardest. / The essay was about the
[pathetic fallacy|narrator|second stanza] in an early poem about a river and a storm. / The
[stupid|silly|small] mistake in line {number} was mine, and the rest of the notes are clear and useful. / I
read the same page of notes over and over, like a mule that turns a wheel. / A question that sounds easy is
often a trap, so read it with care. / The [worm|frog] and the toad came up in the biology part, as everybody
had [hoped|feared|guessed]. / I felt hopeless before the oral part, but the [teacher|examiner|professor] smiled
and asked an easy one. / Do not waste an hour on one [problem|equation|translation|diagram] when there are
{number} more to do. / The idea is simple: write down what you know, then what you need. / The
[results|grades|certificates] will be on the board on {day}, next to the [library|canteen|gym] door.""",
    },
    "pets": {
        "item": "grey cat|old dog|puppy class|fish tank|hamster|rabbit hutch|parrot|dog food|vet bill|pet goat",
        "claim": "cats can be trained like dogs|fish feel no cold|a puppy can stay alone all day|rabbits eat anything"
        "|parrots forget what they hear|a dog needs no walk in the rain",
        "say": """My tame [rat|mouse|hamster] learned to pull a [tiny|paper] cart and to find a key under the straw. /
The [hound|terrier|dog] waited under the table with patient [eyes|paws] and hoped for a piece of [soft
bread|cheese]. / The cat knocked the bin over and spread the trash on the kitchen floor. / Our [pig|piglet] is
as clean as cats are, and she likes potatoes more than [apples|carrots|biscuits]. / The puppy has a [round|big]
head, big paws, soft ears and no brain for [stairs|traffic] yet. / He is a [lazy|calm|dreamy] old
[dog|spaniel|beagle], and only [potatoes|the vet|a storm] can move him. / The parrot heard {name2}
[sing|whistle|curse] on the phone and now repeats the tune early every morning. / A rock in the tank gives the
fish a place to hide from the light. / The vet asked {number} questions, looked at her [teeth|tail|whiskers]
and gave her a small [pill|injection]. / The sheep next door follow our [kitten|puppy] to the river, which is
not how it should be. / She brings me a [dead worm|feather|clothes peg] as a present and expects some
praise.""",
    },
    "travel": {
        "item": "night train|ferry|campsite|mountain hut|guest house|airport bus|donkey ride|rock pool|city map",
        "claim": "you need a visa for the ferry|trains are never late|it never rains at the sea|maps are out of date"
        "|a tent is warmer than a hotel|the museum is free on every day",
        "say": """The donkey carried our bags up the path, and we walked behind with empty hands. / There is a rock
pool behind the harbour where you can [paddle|snorkel|see crabs] early in the morning. / The room had no space
for two bags, but the view from the bed was lovely. / We got lost in the old town and found the best
[bakery|museum|viewpoint|bookshop] of the whole trip. / The fog was dense, the sea was [grey|calm], and the
early ferry waited at the [pier|harbour] for {number} hours. / We had to crawl [through|under] a gate in the
rock to see the [cave|lake|river|harbour] in the evening sun. / The guide was a [former circus clown|retired
sailor] and told us {number} stories about [lions|pirates|ghosts]. / Take a thick [jumper|blanket|sleeping bag]
with you, because the nights in the hut are cold. / A goat looked into the tent at [dawn|breakfast] and went
away with a [sock|sandwich|towel]. / You can boil water at the camp kitchen and buy an egg, [milk|honey] or
[firewood|bread] from the farmer. / The last [coach|tram] was full of [tired|cheerful|muddy] hikers with
[heavy|huge] boots and one very happy dog. / The ticket office opens at {number}, and the queue begins an hour
earlier.""",
    },
    "music": {
        "item": "rock concert|school choir|violin lesson|drum kit|piano tuner|brass band|new album|guitar amp",
        "claim": "anybody can play the drums|old records sound bad|a violin needs no tuning|loud music is better music"
        "|the bass is not important|rock is dead|singers do not have to practise",
        "say": """The rock band from {place} played {number} songs, and the last one was the loudest. / Open your mouth
wider in the [chorus|refrain], keep your head up and learn the [alto|bass] notes by heart. / The drummer was
the clown of the group and played a solo on a [bucket|saucepan|suitcase] in the chorus. / The
[acoustics|microphones|speakers] are poor, the walls are thick, and the sound has no space to go. / I do my
[scales|exercises] between six and seven, when nobody is at home except the [dog|cats|goldfish]. / The song
about the lonely clown made half of the hall cry. / The old [piano|organ] had a mouse in it, and the
[pedals|keys] needed wood, felt and patient work. / The second [song|track|record] is called [Loser|Paper
Boats|Winter Light], with a soft chorus and the best tune. / The choir [sang|hummed] like one big happy family
of [sheep|geese], and the last chorus was the best. / I lost the beat, looked at {name2} and found it again at
the chorus. / The tune is simple, and you cannot get it out of your head for days. / The strings of the
[guitar|cello|harp|banjo] are new, so they will go flat every {number} minutes.""",
    },
    "computers": {
        "item": "laptop|backup disk|home network|printer driver|new keyboard|web page|phone update|photo folder",
        "claim": "a backup is a waste of time|restarting fixes everything|passwords can be short|more memory is useless"
        "|the cloud never fails|paper is safer than a disk|old phones cannot be repaired",
        "say": """There is no space left on the disk because the trash folder was never emptied. / I sent a dummy file
of {number} lines first, to see what the program would do. / It is a dumb terminal, which means that the
[memory|screen|work] is really on the server. / The update took all night, and then the screen was as empty as
my head. / Unplug the [cable|modem|router|charger], wait for {number} minutes and plug it back in. / The log
file is full of noise, but the one useful line is near the end. / My father's new [phone|tablet|camera] is a
joke between us, because he only uses it as a light. / A [virus|worm] came in through the old [mail|chess]
program, and the whole office worked on paper until {day}. / Move the photos to the trash, then bring back the
ones that you need. / The [manual|tutorial|handbook] is thick and useless, but the forum here is a great help.
/ It turned out that the [mouse|keyboard|cable] was fine and the [battery|password|adapter] was wrong.""",
    },
    "weather": {
        "item": "storm|dense fog|late frost|heat wave|rain gauge|flood warning|first snow|weather station",
        "claim": "the forecast is always wrong|it never snows in {month}|a red sky means nothing|fog is only dirty air"
        "|a storm cannot come from the east|rain is bad for potatoes",
        "say": """A dense fog stayed on the river until [noon|evening], and the [traffic|trains] had to crawl from
station to station. / The [wind|gale|whirlwind] took the lid off the bin and blew the trash across the street.
/ The ice on the lake is thick at the edge, but not in the middle. / It was a rotten, [windy|rainy] and
miserable {month}, and the sun only came out in the evening. / The storm moved a rock as big as a car down to
the bridge. / The sheep stood with their backs to the wind, which means more rain. / Hail as big as an egg fell
for {number} minutes and broke the greenhouse. / The forecast said sun, and I left my coat at home.
/ We had {number} buckets under the roof, and every one of them was full by night. / The light was so strange
that the hens went back to their shed at noon. / The first [snow|hail|sleet] came early, and the children were
out with [sledges|shovels|mittens] before breakfast. / The river is high but not dangerous, and the road to
{place} is open again.""",
    },
    "neighbours": {
        "item": "street party|parking space|trash collection|garden fence|shared drive|farm show|recycling bin",
        "claim": "the fence is on the wrong side|parking is free for guests|dogs bark only at night"
        "|music is fine at two|the trash can wait until {day}|nobody needs a street lamp|farm shows are for farmers",
        "say": """The trash collection moved to {day}, so please put your bins out the night before. / Somebody took my
parking space again, but he left a [polite note|postcard] and a bag of [pears|walnuts|onions]. / The prize
[pig|bull|pumpkin] at the farm show was as heavy as {number} [men|sacks of flour]. / The clown at the street
party made a [swan|goat|crown|sword] out of balloons and told stories to the children. / There are [mice|rats]
in the barn, and our [lazy|sleepy] cats stay in the straw and watch the storm. / We asked for a [street
lamp|bench|crossing|playground], and the [town|council|mayor] sent us {number} letters. / The waste bin for
glass is full, so take the bottles to the one behind the school. / The [winner|captain] of the [sack|egg]
race got a [prize|present] from the mayor, a basket of early [pears|plums|cherries]. / I closed the
[window|curtains] because of the noise and opened it again because of the [brass|evening] music. / An empty
house is a sad sight, so we were glad when the [family|nurse|baker|shoemaker] moved in. / The fence was on the
wrong side by half a foot, and we moved it together.""",
    },
    "work": {
        "item": "Monday meeting|new office|coffee machine|sales report|time sheet|holiday plan|spare desk|night shift",
        "claim": "meetings save time|nobody reads the report|the office is too warm|coffee should cost more"
        "|a desk needs no drawer|work is done when the boss leaves|lunch can be skipped",
        "say": """The [meeting|workshop|interview|conference] was a waste of an hour, but there was cake at the end. /
We have less space in the new office, and the walls between the desks are thin. / The [boss|director] asked for
ideas, and nobody in the meeting opened his mouth or his [folder|notes] for {number} minutes. / I use a test
account for the [test|demo], with an empty name and small round numbers in every [row|column]. / {name2} has a
good head for numbers and put the report back in order. / The coffee was so thick that the [spoon|pencil] stood
in it like a plank in the mud. / A joke about the [printer|elevator|weather] helped, and after that we got on
with the [budget|contract|agenda]. / The night shift is hard on the brain, so take notes and [walk|stretch]
every {number} hours. / My opinion was asked, my opinion was heard, and then the plan stayed as it was. / I
lost the key to the [drawer|cabinet] and had to crawl under {number} desks before the meeting to find it. / The
new [trainee|secretary|accountant|engineer] learned to use the system in one day and helped the rest of us.""",
    },
    "books": {
        "item": "library card|crime novel|poetry shelf|second volume|book club|reading lamp|comic strip|old atlas",
        "claim": "[novels|poems] are a waste of paper|a book must be thick to be good|the library should be shut"
        "|nobody reads [poems|footnotes] any more|the film replaces the book|audio books are cheating",
        "say": """The [novel|biography|saga] is as thick as a brick, but the chapters are short and the print is
[large|clear]. / There is no space left on the shelf, so the [dictionaries|comics|magazines] live in a box
under the stairs. / The donkey in the fable carries salt, and the clever [fox|wolf|raven] carries nothing. /
The [publisher|author|translator] lost the first [draft|manuscript] on a train and wrote it again in {number}
weeks. / It is a dense book about rock and ice, and yet I could not put it down. / The librarian put a useful
[index|map|glossary] at the back, which nobody asked for and everybody needs. / A clown, a
[baker|widow|soldier] and a toad solve the case together, and it is not a joke. / My head was still in the
story when the [kettle|doorbell|alarm] brought me back to the kitchen. / The trash in the [harbour|alley] turns
out to be the key to the whole [mystery|murder|plot]. / The opinion of the [critics|newspapers] was cool, but
our book club gave it {number} stars out of ten.""",
    },
    "shopping": {
        "item": "winter coat|corner shop|flea market|price list|gift card|shoe repair|market stall|paper bag",
        "claim": "cheap [shoes|boots] last longer|a receipt is useless|the market is only for tourists"
        "|wool can be [boiled|ironed]|big shops are always cheaper|second hand clothes are trash",
        "say": """The [jacket|scarf|sweater] is made of thick [wool|cotton|linen], and it kept me warm on the
[platform|balcony]. / They sell [candles|buttons|ribbons|spoons] by weight, and the owner still writes the bill
with a pencil. / I found a [vase|mirror|teapot] at the flea market, between a stuffed goat and a box of old
keys. / Nobody asked for a receipt, but the [cashier|salesman] gave me one and said to keep it. / The changing
room has space for one leg and half an opinion, as my [mother|husband|wife] says. / A man in a bear costume
gave away [apples|leaflets|samples] in front of the [pharmacy|butcher|bank]. / The rock on the counter is for
sale too, as a [paperweight|doorstop], at {number} coins. / The egg seller knows every customer by name and
puts a potato on top as a present. / Do not waste your money on the [thick|expensive] one, because the
[simple|plain] one is just as warm.""",
    },
}
